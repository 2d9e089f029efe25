"""A slow and obvious twin of every kernel, by family."""
