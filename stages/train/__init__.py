"""Steps of the train environment (ultralytics, torch): data sets, weights, training, ONNX."""
