"""Runs a training: its arguments, its hardware, and trainers that resume exactly."""
