"""The embedded default: a little picture world, tiny towers, and the quickstart that joins them."""
