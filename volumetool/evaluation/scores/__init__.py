"""Scores of a restored volume against its truth."""
