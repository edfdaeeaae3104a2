"""The stack compared with the pattern that people copy today, in one run on one engine."""
