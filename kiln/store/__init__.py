"""Content-addressed results of steps, and digests of files. Imports system and below."""
