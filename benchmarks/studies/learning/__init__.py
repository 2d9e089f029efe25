"""Policies that are trained on what an allocator chooses (learning.py, learning_gradients.py)."""
