"""Symbols to bytes and back: coder, probability tables, exact integer networks."""
