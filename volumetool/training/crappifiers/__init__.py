"""Crappifiers: make from a fine image the coarse, noisy one that a fast microscope would have taken."""
