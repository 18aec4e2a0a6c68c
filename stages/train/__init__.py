"""Steps of the train environment (torch, ultralytics)."""
