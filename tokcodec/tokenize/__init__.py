"""A tokenize run: its plan, its shards, and what works on them."""
