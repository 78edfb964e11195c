"""Capsules: a session in one file, to be played again to the bit (``docs/capsule.md``)."""
