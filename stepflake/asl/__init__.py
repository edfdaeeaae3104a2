"""Lint of state machine definitions and of the template."""
