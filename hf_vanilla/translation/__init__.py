"""Translating texts with a trained model."""

import transformers  # noqa: F401  before any module of this room, for it registers the pipeline: see `_registration`
