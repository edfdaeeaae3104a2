"""What at least two rooms use."""
