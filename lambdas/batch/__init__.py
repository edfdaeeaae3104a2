"""The adapter and its machine: a batch of rows, from POST to GET."""
