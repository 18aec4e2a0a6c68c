"""The command line from the outside, as a user types it."""
