"""How long one clip takes, as someone who wants its masks sees it: `eosvos segment`, start to end.

    .venv/bin/python benchmarks/clip.py FRAMES MASK
    .venv/bin/python benchmarks/clip.py FRAMES MASK --against ANOTHER_CHECKOUT

Every run is a process of its own, with all cores to itself if nothing else runs; of `--repeat` of
them the fastest counts. The result is kept in `benchmarks/clip.json`, which the first page reads.
With `--against`, the runs of both take turns, and a line `ratio one-clip VALUE` says how long this
version takes in units of the other.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

HERE = Path(__file__).resolve().parents[1]
COMMAND = 'import sys; from eosvos.cli import app; sys.argv[0] = "eosvos"; app()'


def seconds(checkout: Path, frames: Path, mask: Path) -> float:
    "The whole command once, in a checkout of the project."
    with tempfile.TemporaryDirectory() as out:
        words = ['segment', frames, mask, '--out', Path(out) / 'result']
        environment = os.environ | dict(PYTHONPATH=str(checkout))
        begin = perf_counter()
        subprocess.run(
            [sys.executable, '-c', COMMAND, *map(str, words)],
            env=environment,
            cwd=out,
            check=True,
            capture_output=True,
        )
        return perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('frames', type=Path, help='a folder of pictures')
    parser.add_argument('mask', type=Path, help='the mask of the first of them')
    parser.add_argument('--against', type=Path, help='another checkout, to compare with')
    parser.add_argument('--repeat', type=int, default=3, help='runs of each')
    options = parser.parse_args()
    frames, mask = options.frames.resolve(), options.mask.resolve()
    checkouts = [HERE] + ([options.against.resolve()] if options.against else [])
    best = dict.fromkeys(checkouts, float('inf'))
    for _ in range(options.repeat):
        for checkout in checkouts:
            best[checkout] = min(best[checkout], seconds(checkout, frames, mask))
            print(f'{checkout.name}: {best[checkout]:.1f} s')
    count = len(list(frames.iterdir()))
    row = dict(clip=frames.name, frames=count, seconds=round(best[HERE], 2))
    row['fps'] = round(count / best[HERE], 2)
    (HERE / 'benchmarks/clip.json').write_text(json.dumps(row, indent=1) + '\n')
    print(f'{row["fps"]} frames a second')
    if options.against:
        print(f'ratio one-clip {best[HERE] / best[checkouts[1]]:.2f}')


if __name__ == '__main__':
    main()
