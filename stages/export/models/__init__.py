"""Model files: opens, runs and changes them, and converts pixels to what they take."""
