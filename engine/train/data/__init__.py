"""Training images: loading, cropping, pairing, prefetching."""
