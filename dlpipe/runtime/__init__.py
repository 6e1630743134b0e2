"""Training: random streams, optimisers, schedules, one loop, checkpoints, stopping, devices."""
