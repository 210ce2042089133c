"""One algorithm a file. Algorithms know latents, velocities and advantages; not models, not rewards."""
