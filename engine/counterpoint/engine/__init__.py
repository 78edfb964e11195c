"""The Counterpoint engine: aligned windows, compiled encoders and fusion, predictions in Redis."""
