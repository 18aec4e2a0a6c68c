"""Runs models in the TensorFlow Lite Micro interpreter on the host."""
