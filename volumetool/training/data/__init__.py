"""What a training learns from: sources, pairs, and what is done to them."""
