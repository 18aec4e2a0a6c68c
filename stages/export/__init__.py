"""Steps of the export environment (tensorflow, onnx2tf)."""
