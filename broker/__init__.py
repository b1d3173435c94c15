"""The wire: the only room that talks to NATS."""
