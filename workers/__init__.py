"""Execution: the worker process and what a task sees of it."""
