"""Encoders, fusion operators and the model made of them; each by name or by dotted path."""
