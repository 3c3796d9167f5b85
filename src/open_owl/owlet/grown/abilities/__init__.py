"""One module an ability, each with `make(rng, split) -> Row`."""
