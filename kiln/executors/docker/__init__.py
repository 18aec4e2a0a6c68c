"""The docker executor: images, containers and volumes through the Docker SDK.

Imports executors, store and below.
"""
