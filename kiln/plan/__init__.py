"""Request and target to steps, as pure data; opens no file but settings.

Imports executors and below.
"""
