"""Forensics over the log with the same decisions that wrote it."""
