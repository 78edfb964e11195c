"""What a compiled bundle is worth on a set of one's own, through the engine's own path."""
