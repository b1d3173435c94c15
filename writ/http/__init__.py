"""The HTTP API of a node, in a process of its own: `keeper` starts it, `routes` lists what it does."""
