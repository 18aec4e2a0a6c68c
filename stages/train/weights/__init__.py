"""Networks and their weights: accepted architectures, Kiln's own file, reading foreign files."""
