"""Viewing: Neuroglancer on volumes, and volumes that are enhanced while one looks."""
