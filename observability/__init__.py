"""Metrics and logs, the lowest layer: imports nothing of the other packages."""
