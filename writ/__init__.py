"""Writ: an event-sourced control plane for jobs on NATS JetStream."""
