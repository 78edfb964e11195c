"""Array kernels: the numpy reference is the definition, the fast paths are tested against it."""
