"""The stack on this machine: the embedded engine, build and deployment."""
