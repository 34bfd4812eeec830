"""Whatever listens: who may ask, and how many may wait."""
