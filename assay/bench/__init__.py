"""Measuring a running service as its callers see it: what `assay bench` does. It neither starts nor tunes a service."""
