"""J, F and seconds of `eosvos segment` on the ten shared sequences of the DAVIS 2016 validation set.

    EOSVOS_DATA=... .venv/bin/python benchmarks/davis_val.py [--model small] [--out runs/davis-val]

Runs the command line as a user would, one sequence after the other (480p frames in, 480p masks out, ten inner steps, no online
adaptation), and writes `davis_val.csv` beside this file. A sequence that is done with the same model file and
iterations is not run again.
"""
import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from time import perf_counter

from eosvos.datasets import davis
from eosvos.metrics import evaluate
from eosvos.weights import SHIPPED

HERE = Path(__file__).parent


def segment(frames: Path, mask: Path, out: Path, options: list[str]) -> float:
    "Run `eosvos segment` into a new folder; seconds of the whole command, the start of Python included."
    start = perf_counter()
    command = [Path(sys.executable).parent / 'eosvos', 'segment', frames, mask, '--out', out, *options]
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='small')
    parser.add_argument('--iterations', default='10')
    parser.add_argument('--out', type=Path, default=HERE.parent / 'runs' / 'davis-val')
    parser.add_argument('--csv', type=Path, default=HERE / 'davis_val.csv')
    arguments = parser.parse_args()
    if 'EOSVOS_DATA' not in os.environ:
        sys.exit('EOSVOS_DATA: expected the folder that holds DAVIS, it is not set')
    root = Path(os.environ['EOSVOS_DATA']) / 'DAVIS'
    weights = SHIPPED.get(arguments.model, Path(arguments.model))
    run = [sha256(weights.read_bytes()).hexdigest(), arguments.iterations]
    rows = []
    for sequence in davis(root, 'val10', '480p'):
        out = arguments.out / sequence.name
        done = json.loads((out / 'done.json').read_text()) if (out / 'done.json').exists() else {}
        if done.get('run') != run:
            shutil.rmtree(out, ignore_errors=True)
            seconds = segment(sequence.frames[0].parent, sequence.masks[0], out, ['--model', arguments.model, '--iterations', arguments.iterations])
            done = dict(run=run, seconds=seconds)
            (out / 'done.json').write_text(json.dumps(done))
        scores, = evaluate(out / 'masks', sequence.masks[0].parent).objects
        rows.append([sequence.name, len(sequence.frames), 100 * scores.j.mean(), 100 * scores.f.mean(), done['seconds']])
        print(f'{sequence.name:16} J {rows[-1][2]:5.1f}  F {rows[-1][3]:5.1f}  {rows[-1][4]:6.1f} s', flush=True)
    mean = ['mean', *[sum(row[i] for row in rows) / len(rows) for i in range(1, 5)]]
    print(f'{"mean":16} J {mean[2]:5.1f}  F {mean[3]:5.1f}  {mean[4]:6.1f} s')
    lines = [[name, f'{frames:.0f}', *[f'{value:.1f}' for value in values]] for name, frames, *values in [*rows, mean]]
    with open(arguments.csv, 'w', newline='') as file:
        csv.writer(file, lineterminator='\n').writerows([['sequence', 'frames', 'J', 'F', 'seconds'], *lines])


if __name__ == '__main__':
    main()
