"""What the scripts that reproduce the paper share."""
