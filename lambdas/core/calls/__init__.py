"""What functions and services call: within limits that all share, and nothing paid for twice."""
