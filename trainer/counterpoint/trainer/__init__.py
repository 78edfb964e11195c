"""The Counterpoint trainer: from labelled data to a bundle that the engine runs."""
