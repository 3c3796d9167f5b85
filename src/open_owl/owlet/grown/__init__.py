"""The grown world: pictures and talk for every ability that the paper names, with exact answers, from a seed.

Beside the little world that the quickstart learns in `minutes`. Start with `registry.py`: one generator an
ability, and a sampler over them; `splits.py` says what training never sees; `exam.py` asks for it.
"""
