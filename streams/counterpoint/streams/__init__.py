"""Live and recorded streams: samples with capture times, and the sources that make them."""
