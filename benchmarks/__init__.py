"""The stack beside the pattern that people copy today, on the same engine and in the same run."""
