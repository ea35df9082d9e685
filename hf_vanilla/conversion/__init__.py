"""Checkpoints of other libraries and formats, both ways."""
