"""Models of other libraries, and how a training step is measured beside theirs."""
