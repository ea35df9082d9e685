"""Translating texts with a trained model."""

# First, because importing transformers registers the pipeline, which is in this room: see `_registration`.
import transformers  # noqa: F401
