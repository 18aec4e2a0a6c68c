"""Reads TFLite files: graphs, memory plans, heads, what Vela placed where."""
