"""Runs a training: arguments, hardware, trainers that resume exactly."""
