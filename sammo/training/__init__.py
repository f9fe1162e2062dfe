"""Training: options, the loop, checkpoints and their averages, several processes."""
