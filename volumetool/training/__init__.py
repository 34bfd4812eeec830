"""The method: fine images are degraded on purpose, and a network learns the way back."""
