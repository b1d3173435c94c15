"""Processes of a node beside its own: `keeper` is the node's hold on one, `life` what runs in one."""
