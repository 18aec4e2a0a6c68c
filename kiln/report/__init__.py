"""What a build gave, as records, as a page and side by side; computes nothing new.

Imports plan and below.
"""
