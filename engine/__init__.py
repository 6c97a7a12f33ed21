"""The restoration library: numpy only outside `networks` and `train`."""
