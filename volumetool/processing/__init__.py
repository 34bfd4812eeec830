"""The heart: statistics, columns, network, blending, pyramid, and `enhance_region` that joins them."""
