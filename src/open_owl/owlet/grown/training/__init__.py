"""From nothing to Owlet: towers that read and see, then both stages. Start at `run.py`."""
