"""The local executor: steps as processes of this host, in virtual environments.

Imports executors, store and below.
"""
