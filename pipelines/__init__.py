"""Batch jobs over many items: what runs them (`engine/`), and one folder for each job."""
