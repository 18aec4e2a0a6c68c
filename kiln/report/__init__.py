"""What a build gave, as records, as a page and side by side; computes nothing anew.

Imports plan and below.
"""
