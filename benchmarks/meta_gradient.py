"""Time and memory of one task's meta-gradient: the closed form against autograd through all inner steps, on the CPU.

Models: the paper's, with random weights, pictures of 96 x 160 and 8 RoIs, so that an inner step takes about a second, and the shipped small
model as it is. A batch is one picture, and every neuron has a rate. Peers: `unrolled_meta_gradient`, which is torch.func.functional_call
and autograd, in both orders, and the package `higher`, where it can be imported. Install that outside the environment:
`pip install --no-deps --target FOLDER higher`, and set PYTHONPATH=FOLDER; version 0.2.1, of 2020, still works with torch 2.14.
learn2learn 0.2.0, the other candidate, cannot be built for Python 3.11: its C sources include longintrepr.h.

Memory is the peak of a process of its own (VmHWM of /proc, so Linux alone), counted anew after set-up and a first forward and backward,
with MALLOC_MMAP_THRESHOLD_=65536, so that what is freed goes back at once. *Extra* is what exceeds the peak of one ordinary forward and
backward. Memory is the median of three processes; seconds are the least of the three, for other programs only add to them. The ratio
of the times comes from runs side by side in one more process, with malloc as it is. All methods must find the same gradients: the
norms are compared.

Run as `.venv/bin/python benchmarks/meta_gradient.py`; lines `ratio NAME VALUE` give ours / peer, and meta_gradient.csv all measurements.
The 50 unrolled steps of the paper's model take 11 GB.
"""

import csv
import json
import os
import subprocess
import sys
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn

from eosvos.core import demo_frame, generator, write_then_rename
from eosvos.fine_tuning import (
    AugmentConfig,
    Batch,
    FineTuneConfig,
    Rates,
    Weights,
    as_target,
    augmented_batches,
    initial_weights,
    learning_rates,
)
from eosvos.mask_rcnn import PAPER, ImageConfig
from eosvos.meta import MetaGradient, meta_gradient, unrolled_meta_gradient
from eosvos.small import build
from eosvos.weights import load_model

CLIP = 10.0  # greatest norm of an inner gradient
LR = 1e-5  # mean of the rates: random weights shall not run away
KEY = ('benchmark',)  # seed of all sampling
VIEWS = 5  # different batches; later inner steps see them again
MB = 1e6  # bytes
FAR = 2e-2  # share by which two norms may differ: over 50 steps in float32 rounding grows; tests/test_meta.py compares in float64
PLAIN = 'forward and backward'
ORDERS = ['', ', second order']
ROWS = [  # model, method, inner steps
    ('paper', PLAIN, 0),
    *[('paper', method, 5) for method in ('ours', 'unrolled', 'higher')],
    *[
        ('paper', method, 50) for method in ('ours', 'unrolled')
    ],  # higher would keep the weights of all steps besides
    *[
        ('paper', method + ORDERS[1], steps)
        for steps in (2, 5)
        for method in ('unrolled', 'higher')
    ],
    ('small', PLAIN, 0),
    *[('small', method, 5) for method in ('ours', 'unrolled')],
    ('small', 'unrolled' + ORDERS[1], 2),
]


@dataclass
class Task:
    "The arguments of a meta-gradient."

    model: nn.Module
    weights: Weights
    rates: Rates
    batches: list[Batch]
    test: Batch
    clip: float = CLIP
    key: tuple[str, ...] = KEY


def make_task(
    name: str,  # 'paper' or 'small'
    steps: int,  # inner steps
) -> Task:
    "Learn the object of the demo clip from its first frame; the thirteenth is for the meta loss."
    torch.manual_seed(0)
    if name == 'small':
        model, _ = load_model('small')
    else:
        model = build(
            replace(
                PAPER,
                image=ImageConfig(min_side=96, max_side=160),
                roi=replace(PAPER.roi, samples=8),
            )
        )
    (image, ids), (later, later_ids) = demo_frame(0), demo_frame(12)
    copies = list(
        augmented_batches(
            image, ids == 1, FineTuneConfig(min(steps, VIEWS), 1, view=AugmentConfig(angle=10)), KEY
        )
    )
    weights = initial_weights(model)
    rates = learning_rates(weights, value=LR)
    return Task(
        model,
        weights,
        rates,
        [copies[t % VIEWS] for t in range(steps)],
        ([later], [as_target(later_ids == 1)]),
    )


def forward_backward(
    task: Task,
) -> None:
    "What one step of ordinary training computes."
    sum(task.model(*task.test, generator=generator(*KEY)).values()).backward()


def higher_meta_gradient(
    model: nn.Module,
    weights: Weights,  # those of the model, which are where it starts
    rates: Rates,
    batches: list[Batch],
    test: Batch,
    clip: float,
    key: tuple[str, ...],
    second_order: bool = False,
) -> MetaGradient:
    "The same by the package `higher`. Each weight is a group of the optimiser, for it to have rates of its own."
    import higher

    optimizer = torch.optim.SGD([dict(params=[p]) for p in model.parameters()], lr=LR)
    learned = [rates[name].clone().requires_grad_() for name in weights]

    def clipped(gradients: list[Tensor]) -> list[Tensor]:
        gradients = [g if second_order else g.detach() for g in gradients]
        norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))
        return [g * (clip / norm) for g in gradients] if norm > clip else gradients

    with higher.innerloop_ctx(
        model, optimizer, copy_initial_weights=False, override=dict(lr=learned)
    ) as (fast, inner):
        for t, batch in enumerate(batches):
            inner.step(
                sum(fast(*batch, generator=generator(*key, 'sample', t)).values()),
                grad_callback=clipped,
            )
        losses = fast(*test, generator=generator(*key, 'test', len(batches)))
        result = torch.autograd.grad(
            sum(losses.values()), [*fast.parameters(time=0), *learned], materialize_grads=True
        )
    return MetaGradient(
        dict(zip(weights, result)),
        dict(zip(rates, result[len(weights) :])),
        {n: v.item() for n, v in losses.items()},
        [],
    )


METHODS = dict(ours=meta_gradient, unrolled=unrolled_meta_gradient, higher=higher_meta_gradient)


def find_gradient(
    method: str,  # of METHODS, with one of ORDERS
    task: Task,
) -> MetaGradient:
    "The meta-gradient by any method."
    kind, comma, _ = method.partition(',')
    if comma:
        task.model.roi_heads.config = replace(task.model.roi_heads.config, align='twice')
    return METHODS[kind](**vars(task), **dict(second_order=True) if comma else {})


def norms(
    found: MetaGradient,
) -> list[float]:  # of the gradients for the initialisation, and for the rates
    "What is compared between methods."
    return [
        torch.stack([g.norm() for g in part.values()]).norm().item()
        for part in (found.weights, found.rates)
    ]


def peak() -> float:  # MB
    "The most memory that this process held since the last `reset_peak`."
    (line,) = [
        line
        for line in Path('/proc/self/status').read_text().splitlines()
        if line.startswith('VmHWM')
    ]
    return int(line.split()[1]) * 1024 / MB


def reset_peak() -> None:
    "Count anew, from what is held now."
    Path('/proc/self/clear_refs').write_text('5')


# ---- in a process of their own


def measure(
    model: str,
    method: str,
    steps: int,  # inner steps
) -> dict:  # seconds, peak (MB), norms
    "One row of the table, once."
    task = make_task(model, steps)
    forward_backward(task)  # kernels are compiled, libraries loaded
    task.model.zero_grad()
    reset_peak()
    begin = perf_counter()
    found = forward_backward(task) if method == PLAIN else find_gradient(method, task)
    return dict(seconds=perf_counter() - begin, peak=peak(), norms=norms(found) if found else [])


def many_tasks() -> list[float]:  # MB
    "The peaks after 10 and after 100 tasks of one step, on small pictures."
    task, peaks = make_task('small', 1), {}
    task.model.image_config = replace(task.model.image_config, min_side=96, max_side=160)
    reset_peak()
    for count in range(1, 101):
        meta_gradient(**vars(task))
        if count in (10, 100):
            peaks[count] = peak()
    return list(peaks.values())


def in_pairs(
    peers: list[str],  # of METHODS
    steps: int,  # inner steps
    pairs: int,  # after one that warms up
) -> dict[str, float]:  # ours / peer, the median
    "Times of the paper's model, one after the other; who goes first changes."
    task, ratios = make_task('paper', steps), {peer: [] for peer in peers}
    for pair in range(pairs + 1):
        seconds = {}
        for method in ['ours', *peers][:: 1 if pair % 2 else -1]:
            begin = perf_counter()
            find_gradient(method, task)
            seconds[method] = perf_counter() - begin
        if pair:
            [ratios[peer].append(seconds['ours'] / seconds[peer]) for peer in peers]
    return {peer: median(values) for peer, values in ratios.items()}


JOBS = dict(measure=measure, many_tasks=many_tasks, in_pairs=in_pairs)


def fresh(
    job: str,  # of JOBS
    *arguments,
    environment: dict[str, str] | None = None,  # besides the present one
):  # what the job returns
    "Do a job in a new process."
    command = [sys.executable, __file__, '--job', json.dumps([job, *arguments])]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | (environment or {})
    )
    if done.returncode:
        raise RuntimeError(
            f'{job}{arguments}: exit status {done.returncode}\n{done.stderr[-3000:]}'
        )
    return json.loads(done.stdout.splitlines()[-1])


by_pages = partial(fresh, environment=dict(MALLOC_MMAP_THRESHOLD_='65536'))


# ---- the report


def measure_all(
    rows: list[tuple[str, str, int]],  # of ROWS
    repeats: int,
) -> dict:  # by row: seconds, peak, extra (MB), norms
    "The least seconds and the median memory of `repeats` processes for each row, round after round."
    runs = {row: [] for row in rows}
    for repeat in range(repeats):
        for row in rows:
            run = by_pages('measure', *row)
            runs[row].append(run)
            print(
                f'round {repeat + 1}: {" ".join(map(str, row))}: {run["seconds"]:.2f} s, {run["peak"]:.0f} MB, norms {run["norms"]}',
                flush=True,
            )
    found = {
        row: dict(
            seconds=min(run['seconds'] for run in many),
            peak=median(run['peak'] for run in many),
            norms=many[0]['norms'],
        )
        for row, many in runs.items()
    }
    for row, values in found.items():
        values['extra'] = values['peak'] - found[row[0], PLAIN, 0]['peak']
    return found


def check_equal(
    found: dict,  # of `measure_all`
) -> None:
    "All methods agree on the gradients of the same order, model and number of steps."
    groups = {}
    for (model, method, steps), values in found.items():
        if method != PLAIN:
            groups.setdefault((model, method.partition(',')[2], steps), {})[method] = values[
                'norms'
            ]
    for key, group in groups.items():
        (first, expected), *others = group.items()
        for method, got in others:
            far = max(abs(a - b) / b for a, b in zip(got, expected))
            print(f'{key[0]}, {key[2]} steps: norms of {first} and {method} differ by {far:.1e}')
            assert far < FAR, f'{key}: {group}'


def write_table(
    found: dict,  # of `measure_all`
) -> None:
    "meta_gradient.csv, beside this file."
    with (
        write_then_rename(Path(__file__).with_suffix('.csv')) as part,
        open(part, 'w', newline='') as file,
    ):
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(['model', 'method', 'inner steps', 'seconds', 'peak MB', 'extra MB'])
        for row, o in found.items():
            writer.writerow([*row, f'{o["seconds"]:.1f}', f'{o["peak"]:.0f}', f'{o["extra"]:.0f}'])


def main() -> None:
    "Measure, check, and write the table."
    parser = ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        '--repeats', type=int, default=3, help='processes for each row, and pairs of times'
    )
    parser.add_argument('--job', help='for the processes that this one starts')
    options = parser.parse_args()
    if options.job:
        job, *arguments = json.loads(options.job)
        return print(json.dumps(JOBS[job](*arguments)))
    peers = ['unrolled'] + ['higher'] * bool(find_spec('higher'))
    print(f'{torch.get_num_threads()} threads; peers: {", ".join(peers)}')
    ten, hundred = by_pages('many_tasks')
    print(f'small model: {ten:.0f} MB after 10 tasks, {hundred:.0f} MB after 100')
    assert hundred < 1.03 * ten, 'memory grows from task to task'
    found = measure_all(
        [row for row in ROWS if 'higher' in peers or 'higher' not in row[1]], options.repeats
    )
    check_equal(found)
    write_table(found)
    for model, steps, prefix in (('paper', 5, ''), ('paper', 50, ''), ('small', 5, 'small-model-')):
        ours, unrolled = (found[model, method, steps]['extra'] for method in ('ours', 'unrolled'))
        print(f'ratio {prefix}extra-memory-T{steps}-unrolled {ours / unrolled:.3f}')
    print(
        f'ratio flat-memory-T50-over-T5 {found["paper", "ours", 50]["peak"] / found["paper", "ours", 5]["peak"]:.3f}'
    )
    if 'higher' in peers:
        print(
            f'ratio extra-memory-T5-higher {found["paper", "ours", 5]["extra"] / found["paper", "higher", 5]["extra"]:.3f}'
        )
    for row, o in found.items():
        if ORDERS[1] in row[1]:
            print(
                f'{" ".join(map(str, row))}: {o["seconds"]:.1f} s, peak {o["peak"]:.0f} MB, extra {o["extra"]:.0f} MB'
            )
    for peer, value in fresh('in_pairs', peers, 5, options.repeats).items():
        print(f'ratio time-T5-{peer} {value:.3f}')


if __name__ == '__main__':
    main()
