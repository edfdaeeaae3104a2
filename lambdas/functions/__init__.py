"""Remote functions: one file for each, called from SQL."""
