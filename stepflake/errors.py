"""The error that the command line shows to its user."""


class UserError(Exception):
    """An error that the user can fix; the message says how. `stepflake` prints it and exits with 1."""
