"""Services: one step of a workflow in each file."""
