"""The demonstration: real jobs on a node of their own, with real trouble in the course of it."""
