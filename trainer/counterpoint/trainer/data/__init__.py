"""Readers of the public sets that the trainer learns from, each into plain arrays."""
