"""The Transformer families: what is copied to the Hub beside a checkpoint."""
