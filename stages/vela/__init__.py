"""Steps of the vela environment (Arm's Ethos-U compiler)."""
