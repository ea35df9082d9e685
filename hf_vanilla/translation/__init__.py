"""Translating texts with a trained model."""
