"""Formats of volumes, one file each, behind one registry."""
