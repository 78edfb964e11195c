"""Training a model of one's own from a table of examples and a configuration file."""
