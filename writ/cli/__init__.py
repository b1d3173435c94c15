"""The command line, one of the ways in."""
