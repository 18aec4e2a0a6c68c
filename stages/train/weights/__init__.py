"""Networks and their weights: which are accepted, the canonical file, reading foreign ones."""
