"""Where the time of an outer step goes: four tasks of the small model, as `eosvos train small` takes them.

    EOSVOS_DATA=... OMP_NUM_THREADS=1 .venv/bin/torchrun --nproc-per-node 2 benchmarks/outer_step.py

Prints seconds an outer step (median of ten, after two to warm up) and the shares of waiting for tasks, inner steps, meta loss, and the
rest: sums over processes, optimiser, clamping. Without torchrun one process takes all four tasks.
"""
import os
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from eosvos import meta
from eosvos.runs import Processes
from eosvos.train import PRESETS, MetaRun, outer_sums, task_stream

WARM, STEPS = 2, 10


def main(processes: Processes) -> None:
    if 'EOSVOS_DATA' not in os.environ: sys.exit('EOSVOS_DATA: expected the folder that holds DAVIS and images, it is not set')
    config = replace(PRESETS['small'], steps=WARM + STEPS)
    run, spent, original = MetaRun(config, torch.device('cpu')), {'inner': 0.0, 'test': 0.0}, meta.loss_gradient

    def timed(model, weights, batch, clip, random):     # the meta loss is never clipped, inner steps are
        start = perf_counter()
        result = original(model, weights, batch, clip, random)
        spent['test' if clip is None else 'inner'] += perf_counter() - start
        return result

    meta.loss_gradient = timed
    stream, rows = task_stream(config, Path(os.environ['EOSVOS_DATA']), processes, 0), []
    for _ in range(WARM + STEPS):
        spent.update(inner=0.0, test=0.0)
        start = perf_counter()
        tasks = next(stream)
        data = perf_counter() - start
        sums = outer_sums(run, tasks)
        processes.sum(sums)
        torch._foreach_div_(sums[:-1], sums[-1][0].item())
        run.update(sums[:-1])
        rows.append([perf_counter() - start, data, spent['inner'], spent['test']])
    if processes.rank: return
    total, data, inner, test = np.median(rows[WARM:], axis=0)
    print(f'{processes.world} processes of {torch.get_num_threads()} threads: {total:.2f} s an outer step of {config.batch} tasks')
    for name, seconds in dict(data=data, inner=inner, test=test, rest=total - data - inner - test).items():
        print(f'{name:6} {seconds:6.3f} s {100 * seconds / total:5.1f} %')


if __name__ == '__main__':
    with Processes() as processes: main(processes)
