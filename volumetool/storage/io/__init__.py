"""Stores of bytes: keys, chunks, retries, limits."""
