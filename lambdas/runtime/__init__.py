"""What the Lambda handlers share: the wire format, the catalog, batches, executions, settings and errors."""
