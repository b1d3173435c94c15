"""The views of a node, in a process of their own: `keeper` starts it and keeps it, `__main__` is it."""
