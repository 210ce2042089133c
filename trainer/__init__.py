"""Train image generators on rewards that come from services."""
