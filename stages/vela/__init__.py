"""Steps of the vela environment (Arm's Ethos-U compiler, TensorFlow Lite Micro)."""
