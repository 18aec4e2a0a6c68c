"""The command line: one module for each command, and the only code that prints.

May import every other package.
"""
