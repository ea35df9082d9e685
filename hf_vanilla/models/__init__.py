"""The models, as the paper has them: what travels with a checkpoint to the Hub."""

import transformers  # noqa: F401  before any module of this room, for it registers them all: see `_registration`
