"""Attempts in processes of their own: what starts them, keeps them apart, and tells how they ended."""
