"""Attention maps: what the heads of a model look at, as tensors, pages, figures and surveys of a corpus."""
