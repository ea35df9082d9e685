"""From a corpus to batches of token ids."""
