"""Steps of the export environment (tensorflow, onnx2tf): ONNX to TFLite, and its accuracy."""
