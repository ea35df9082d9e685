"""The recurrent family: what the paper replaced. Its code travels beside a checkpoint with that of the Transformer."""
