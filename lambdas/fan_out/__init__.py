"""fan_out: a list of tasks, distributed over a queue of workers, and their results joined in order."""
