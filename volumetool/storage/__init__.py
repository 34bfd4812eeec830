"""Volumes on disk and in object stores: open, create, describe, validate."""
