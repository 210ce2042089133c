"""Image generators one can sample and train: thin adapters over diffusers pipelines."""
