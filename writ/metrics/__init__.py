"""Metrics for Prometheus: how they are written down, where they are served, one page for a whole node."""
