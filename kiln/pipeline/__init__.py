"""Runs a plan: data set in, steps through an executor into the store, results out.

Imports report and below.
"""
