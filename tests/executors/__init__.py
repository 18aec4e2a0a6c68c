"""Both executors, with real environments and a real engine."""
