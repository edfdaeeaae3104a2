"""The commands of `stepflake`: one file for each, imported when it runs."""
