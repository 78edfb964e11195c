"""Preprocessing shared by trainer and engine: faces, sound and text, ready for the encoders."""
