"""ingest: each content of an object that lands in S3, exactly once."""
