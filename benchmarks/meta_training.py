"""Does meta-training beat its start? J of following with learned weights and rates, and with the parent and the best single rate.

    export EOSVOS_DATA=... OMP_NUM_THREADS=1
    .venv/bin/torchrun --nproc-per-node 2 benchmarks/meta_training.py PARENT.safetensors META.safetensors

The single rate is searched on the five sequences that are held out of the DAVIS training set (every second frame), for each number of
inner steps; then each method follows the ten shared sequences of the DAVIS 2016 validation set, all frames, 480p. A row that stands in
`meta_training.csv` beside this file, measured with the same weights, is not measured again.
"""
import argparse
import csv
import os
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from eosvos.core import write_then_rename
from eosvos.datasets import davis
from eosvos.parent import HELD_OUT, follow_scores
from eosvos.runs import Processes
from eosvos.segment import SMALL_SEGMENT
from eosvos.weights import load_model, load_rates

GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
FILE = Path(__file__).with_suffix('.csv')


class Table:
    "Rows by what was measured; rank 0 writes them."

    def __init__(self, processes: Processes):
        self.processes = processes
        with open(FILE) if FILE.exists() else open(os.devnull) as file: self.rows = {tuple(row[:5]): row for row in csv.reader(file)}

    def measure(self, file: Path, sequences: list, set_name: str, stride: int, steps: int, rate: float | None) -> float:
        "Mean J in percent; with the file's own learned rates where `rate` is None."
        key = (sha256(file.read_bytes()).hexdigest()[:8], file.parent.name, set_name, str(steps), 'learned' if rate is None else f'{rate:g}')
        if key not in self.rows:
            model, _ = load_model(file)
            config = replace(SMALL_SEGMENT, fine_tune=replace(SMALL_SEGMENT.fine_tune, iterations=steps, lr=rate or 0.0))
            p = self.processes
            mine = follow_scores(model, sequences[p.rank::p.world], config, load_rates(file) if rate is None else None, stride)
            parts = [mine] * p.world
            if p.world > 1: dist.all_gather_object(parts, mine)
            scores = {name: 100 * j for part in parts for name, j in part.items()}
            self.rows[key] = [*key, f'{np.mean(list(scores.values())):.1f}', *[f'{name} {scores[name]:.1f}' for name in sorted(scores)]]
            if not p.rank: self.write()
        if not self.processes.rank: print(*self.rows[key][1:6], flush=True)
        return float(self.rows[key][5])

    def write(self) -> None:
        with write_then_rename(FILE) as temporary, open(temporary, 'w', newline='') as file:
            csv.writer(file, lineterminator='\n').writerows(self.rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('parent', type=Path)
    parser.add_argument('meta', type=Path)
    arguments = parser.parse_args()
    if 'EOSVOS_DATA' not in os.environ: sys.exit('EOSVOS_DATA: expected the folder that holds DAVIS, it is not set')
    torch.set_num_threads(1)
    table, root = Table(Processes()), Path(os.environ['EOSVOS_DATA']) / 'DAVIS'
    held_out, val = [s for s in davis(root, 'train', '240p') if s.name in HELD_OUT], davis(root, 'val10', '480p')
    table.measure(arguments.parent, val, 'val10', 1, 0, 0.0)
    searched = {lr: table.measure(arguments.parent, held_out, 'held out', 2, 10, lr) for lr in GRID}
    table.measure(arguments.parent, val, 'val10', 1, 10, max(searched, key=searched.get))
    table.measure(arguments.meta, held_out, 'held out', 2, 10, None)
    table.measure(arguments.meta, val, 'val10', 1, 0, 0.0)
    table.measure(arguments.meta, val, 'val10', 1, 10, None)


if __name__ == '__main__':
    main()
