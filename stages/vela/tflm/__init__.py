"""Runs models in TensorFlow Lite Micro on this host."""
