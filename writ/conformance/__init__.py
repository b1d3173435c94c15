"""Whether a worker, in whatever language, keeps to the protocol: docs/worker-protocol.md."""
