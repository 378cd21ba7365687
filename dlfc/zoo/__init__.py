"""Models: registry, bundled weights, loading."""
