"""Reads TFLite files: graphs, memory plans, heads, and where Vela placed each operator."""
