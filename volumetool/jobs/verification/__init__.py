"""Verification of an output against its records, and repair."""
