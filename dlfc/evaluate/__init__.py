"""Measuring what the codec does."""
