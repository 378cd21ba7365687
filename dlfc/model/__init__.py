"""The DLF network: pure tensors in and out."""
