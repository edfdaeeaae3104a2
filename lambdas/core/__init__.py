"""Code that at least two rooms use."""
