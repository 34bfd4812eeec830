"""Kinds of places that hold files as a folder does."""
