"""etl: a dataset cleaned and loaded, in steps that may be weeks apart."""
