"""Rows a second that one core makes of the grown world, ability by ability, pictures drawn.

    python benchmarks/world_speed.py
    python benchmarks/world_speed.py --seconds 5

Every thing is drawn once in each colour and size before the clock starts; how long that takes is printed.
"""

import argparse
import itertools
import time

from open_owl.owlet.grown.registry import ABILITIES, stream
from open_owl.owlet.grown.sprites import BOX, INK, sprite
from open_owl.owlet.grown.words import KINDS


def main() -> None:
    parser = argparse.ArgumentParser(description="Rows a second a core of the grown world.")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each ability")
    options = parser.parse_args()
    started = time.perf_counter()
    for kind, color, size, flipped in itertools.product(KINDS, INK, BOX, (False, True)):
        sprite(kind, color, size, flipped)
    print(f"all things drawn once in {time.perf_counter() - started:.1f} s")
    for name, weights in (*((ability, {ability: 1.0}) for ability in ABILITIES), ("mixture", None)):
        rows, pictures, started = 0, 0, time.perf_counter()
        for row in stream("speed", weights):
            pictures += len(row.draw())
            rows += 1
            if time.perf_counter() - started > options.seconds:
                break
        seconds = time.perf_counter() - started
        print(f"{name:14s} {rows / seconds:8,.0f} rows/s {pictures / seconds:8,.0f} pictures/s")


if __name__ == "__main__":
    main()
