"""Training of the default model (extra dlfc[train])."""
