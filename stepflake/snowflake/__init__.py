"""Snowflake's side of the wire: its SQL, its client, its DDL."""
