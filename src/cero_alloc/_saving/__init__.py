"""State of an object to a dict and back."""
