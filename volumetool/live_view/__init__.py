"""The live volume: enhanced where one looks, byte for byte as the batch job would."""
