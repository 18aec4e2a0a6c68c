"""The report and the monitor in a real browser."""
