"""From nothing to Owlet: towers that read and see, then both stages by `open_owl.train`. Start at `run.py`."""
