"""Attestation: whether an output is what it should be, by its records, its bytes and its voxels."""
