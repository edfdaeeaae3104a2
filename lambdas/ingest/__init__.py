"""ingest: the rows of an object that lands in S3 through a remote function, once for each content."""
