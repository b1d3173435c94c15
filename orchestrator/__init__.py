"""The write side: commands come in, records go out."""
