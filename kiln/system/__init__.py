"""Processes, threads, locks and files of this host. Imports only errors and paths."""
