"""fan_out: a list of tasks, spread over a queue of workers and joined in order."""
