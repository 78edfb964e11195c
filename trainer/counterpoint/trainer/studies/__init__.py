"""Studies of single questions, each a command whose report stands under docs/results."""
