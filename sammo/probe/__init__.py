"""What a model remembers, measured on a task that needs nothing else."""
