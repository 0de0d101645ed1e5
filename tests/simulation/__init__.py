"""Random histories of a model's life, each checked against the rules that hold whatever happens."""
