"""Quality: how close a result is to the truth, as numbers and as pictures."""
