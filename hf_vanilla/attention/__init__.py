"""What the heads of a model look at."""
