"""Where a step runs: environments and the two executors, docker and local.

Imports store and below.
"""
