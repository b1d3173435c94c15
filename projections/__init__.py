"""The read side: records come in, views go out."""
