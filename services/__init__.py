"""Reward services: one folder a service. A service depends on `assay` alone and imports no other service."""
