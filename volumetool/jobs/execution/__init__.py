"""Execution: regions on a worker, and what closes a run."""
