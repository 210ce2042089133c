"""The small world: a renderer with exact ground truth, its prompts, and recipes that train tiny weights."""
