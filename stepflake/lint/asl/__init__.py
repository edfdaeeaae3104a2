"""Checks of state machine definitions in Amazon States Language."""
