"""The command line. `main` is what the program `dlfc` runs; each command has a module of its own."""

from dlfc.cli.app import main

__all__ = ["main"]
