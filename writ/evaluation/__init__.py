"""Evaluations: a release tried on a data set, scored by jobs, and held against another."""
