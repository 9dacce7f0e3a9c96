"""Time and memory of one task's meta-gradient: ours against autograd through all inner steps.

Ours is the closed form in first order, and goes backwards one inner step at a time in exact order.
Models: the paper's, with random weights, pictures of 96 x 160 and 8 RoIs, so that an inner step
takes about a second, and the shipped small model as it is. A batch is one picture, and every neuron
has a rate. Peers: `unrolled_meta_gradient`, which is torch.func.functional_call and autograd, in
both orders, and the packages `higher` and `torchopt` (exact order), where they can be imported.
Install them outside the environment: `pip install --no-deps --target FOLDER higher torchopt`, and
set PYTHONPATH=FOLDER; higher 0.2.1, of 2020, still works with torch 2.14. learn2learn 0.2.0 cannot
be built for Python 3.11: its C sources include longintrepr.h.

Memory is the peak of a process of its own (VmHWM of /proc, so Linux alone), counted anew after
set-up and a first forward and backward, with MALLOC_MMAP_THRESHOLD_=65536, so that what is freed
goes back at once. *Extra* is what exceeds the peak of one ordinary forward and backward. Memory is
the median of three processes. Seconds are of the processor, for what other programs take does not
count, and the least of the three; set OMP_NUM_THREADS=1, or they count all threads. The ratios of
the times come from runs side by side in one more process, with malloc as it is: the least of ours
by the least of the peer's. All methods must find the same gradients: the norms are compared.

    .venv/bin/python benchmarks/meta_gradient.py                  # both models, T = 5; minutes
    .venv/bin/python benchmarks/meta_gradient.py --models small --steps 2 5 10 20 50

Lines `ratio NAME VALUE` give ours / peer; rows that are measured replace those of
meta_gradient.csv. Of the exact order, the peers run up to --longest steps, for they keep all
graphs: 0.3 GB a step for the small model, 0.7 GB for the paper's.
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
from time import process_time

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
    losses_with,
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
FAR = 2e-2  # share by which norms may differ: rounding grows; tests/test_meta.py has float64
PLAIN = 'forward and backward'
MODELS = ['paper', 'small']
EXACT = ', exact'
PEERS = [peer for peer in ('higher', 'torchopt') if find_spec(peer)]


def rows(models: list[str], steps: list[int], longest: int) -> list[tuple[str, str, int]]:
    "Model, method, inner steps."
    found = []
    for model in models:
        found.append((model, PLAIN, 0))
        for count in steps:
            found += [(model, method, count) for method in ('ours', 'unrolled')]
            found.append((model, 'ours' + EXACT, count))
            if count <= longest:
                found += [(model, method + EXACT, count) for method in ('unrolled', *PEERS)]
    return found


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


def clipped(gradients: list[Tensor], clip: float) -> list[Tensor]:
    norm = torch.stack([g.norm() for g in gradients]).norm()
    return [g * (clip / norm) for g in gradients] if norm > clip else gradients


def higher_exact(task: Task) -> MetaGradient:
    "By the package `higher`. Each weight is a group of the optimiser, to have rates of its own."
    import higher

    model, key = task.model, task.key
    optimizer = torch.optim.SGD([dict(params=[p]) for p in model.parameters()], lr=LR)
    learned = [task.rates[name].clone().requires_grad_() for name in task.weights]
    settings = dict(copy_initial_weights=False, override=dict(lr=learned))
    with higher.innerloop_ctx(model, optimizer, **settings) as (fast, inner):
        for t, batch in enumerate(task.batches):
            losses = fast(*batch, generator=generator(*key, 'sample', t))
            inner.step(sum(losses.values()), grad_callback=partial(clipped, clip=task.clip))
        losses = fast(*task.test, generator=generator(*key, 'test', len(task.batches)))
        inputs = [*fast.parameters(time=0), *learned]
        return as_result(task, losses, torch.autograd.grad(sum(losses.values()), inputs))


def torchopt_exact(task: Task) -> MetaGradient:
    "By TorchOpt's functional SGD, of rate 1: the rates, one a neuron, multiply the gradients."
    import torchopt

    optimizer = torchopt.sgd(lr=1.0)
    learned = [r.clone().requires_grad_() for r in task.rates.values()]
    fast = start = tuple(w.clone().requires_grad_() for w in task.weights.values())
    state = optimizer.init(fast)

    def losses_of(weights, batch, *end):
        weights = dict(zip(task.weights, weights, strict=True))
        return losses_with(task.model, weights, batch, generator(*task.key, *end))

    for t, batch in enumerate(task.batches):
        total = sum(losses_of(fast, batch, 'sample', t).values())
        gradients = clipped(torch.autograd.grad(total, fast, create_graph=True), task.clip)
        scaled = tuple(r * g for r, g in zip(learned, gradients, strict=True))
        updates, state = optimizer.update(scaled, state, inplace=False)
        fast = torchopt.apply_updates(fast, updates, inplace=False)
    losses = losses_of(fast, task.test, 'test', len(task.batches))
    return as_result(task, losses, torch.autograd.grad(sum(losses.values()), [*start, *learned]))


def as_result(task: Task, losses: dict[str, Tensor], found: list[Tensor]) -> MetaGradient:
    weights, rates = (
        dict(zip(task.weights, found)),
        dict(zip(task.rates, found[len(task.weights) :])),
    )
    return MetaGradient(weights, rates, {name: loss.item() for name, loss in losses.items()}, [])


def find_gradient(
    method: str,  # 'ours', 'unrolled', and with EXACT also one of PEERS
    task: Task,
) -> MetaGradient:
    "The meta-gradient by any method."
    kind, comma, _ = method.partition(',')
    exact = bool(comma)
    if kind == 'ours':
        return meta_gradient(**vars(task), order=2 if exact else 1)
    if kind == 'unrolled':
        return unrolled_meta_gradient(**vars(task), second_order=exact)
    return dict(higher=higher_exact, torchopt=torchopt_exact)[kind](task)


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
    begin = process_time()
    found = forward_backward(task) if method == PLAIN else find_gradient(method, task)
    return dict(seconds=process_time() - begin, peak=peak(), norms=norms(found) if found else [])


def many_tasks(order: int) -> list[float]:  # MB
    "The peaks after 3 and after 15 tasks of one step, on small pictures."
    task, peaks = make_task('small', 1), []
    task.model.image_config = replace(task.model.image_config, min_side=96, max_side=160)
    reset_peak()
    for count in range(1, 16):
        meta_gradient(**vars(task), order=order)
        if count in (3, 15):
            peaks.append(peak())
    return peaks


def in_pairs(
    model: str,
    ours: str,  # a method
    peers: list[str],
    steps: int,  # inner steps
    pairs: int,  # after one that warms up
) -> dict[str, float]:  # ours / peer
    "Times of methods, one after the other; who goes first changes."
    task = make_task(model, steps)
    seconds = {method: [] for method in (ours, *peers)}
    for pair in range(pairs + 1):
        for method in list(seconds)[:: 1 if pair % 2 else -1]:
            begin = process_time()
            find_gradient(method, task)
            seconds[method].append(process_time() - begin)
    least = {method: min(values[1:]) for method, values in seconds.items()}
    return {peer: least[ours] / least[peer] for peer in peers}


JOBS = dict(measure=measure, many_tasks=many_tasks, in_pairs=in_pairs)


def fresh(
    job: str,  # of JOBS
    *arguments,
    environment: dict[str, str] | None = None,  # besides the present one
):  # what the job returns
    "Do a job in a new process."
    command = [sys.executable, __file__, '--job', json.dumps([job, *arguments])]
    environment = os.environ | (environment or {})
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f'{job}{arguments}: exit {done.returncode}\n{done.stderr[-3000:]}')
    return json.loads(done.stdout.splitlines()[-1])


by_pages = partial(fresh, environment=dict(MALLOC_MMAP_THRESHOLD_='65536'))


# ---- the report


def measure_all(
    rows: list[tuple[str, str, int]],
    repeats: int,
) -> dict:  # by row: seconds, peak, extra (MB), norms
    "The least seconds and the median memory of `repeats` processes for each row."
    runs = {row: [] for row in rows}
    for repeat in range(repeats):
        for row in rows:
            run = by_pages('measure', *row)
            runs[row].append(run)
            numbers = f'{run["seconds"]:.2f} s, {run["peak"]:.0f} MB, norms {run["norms"]}'
            print(f'round {repeat + 1}: {" ".join(map(str, row))}: {numbers}', flush=True)
    found = {}
    for row, many in runs.items():
        seconds, top = min(run['seconds'] for run in many), median(run['peak'] for run in many)
        found[row] = dict(seconds=seconds, peak=top, norms=many[0]['norms'])
        found[row]['extra'] = top - found[row[0], PLAIN, 0]['peak']
    return found


def check_equal(found: dict) -> None:
    "All methods agree on the gradients of the same order, model and number of steps."
    groups = {}
    for (model, method, steps), values in found.items():
        if method != PLAIN:
            group = groups.setdefault((model, method.endswith(EXACT), steps), {})
            group[method] = values['norms']
    for key, group in groups.items():
        (first, expected), *others = group.items()
        for method, got in others:
            far = max(abs(a - b) / b for a, b in zip(got, expected))
            print(f'{key[0]}, {key[2]} steps: norms of {first} and {method} differ by {far:.1e}')
            assert far < FAR, f'{key}: {group}'


def write_table(found: dict) -> None:
    "meta_gradient.csv, beside this file; rows that are not measured now stay."
    path = Path(__file__).with_suffix('.csv')
    with open(path, newline='') as file:
        head, *old = csv.reader(file)
    table = {(row[0], row[1], int(row[2])): row for row in old}
    for row, o in found.items():
        numbers = f'{o["seconds"]:.1f}', f'{o["peak"]:.0f}', f'{o["extra"]:.0f}'
        table[row] = [*map(str, row), *numbers]
    order = sorted(table, key=lambda row: (row[0], row[1] != PLAIN, row[1].endswith(EXACT), row[2]))
    with write_then_rename(path) as part, open(part, 'w', newline='') as file:
        csv.writer(file, lineterminator='\n').writerows([head, *(table[row] for row in order)])


def print_ratios(found: dict, repeats: int) -> None:
    "Ours / peer: of the paper's model by the plain name, of the small one with its name before it."
    for model, method, steps in found:
        if not method.startswith('ours'):
            continue
        prefix = 'small-model-' if model == 'small' else ''
        order = '-exact' if method.endswith(EXACT) else ''
        kinds = [kind + method[4:] for kind in ('unrolled', *PEERS)]
        others = [kind for kind in kinds if (model, kind, steps) in found]
        ours = found[model, method, steps]['extra']
        for other in others:
            name = f'{prefix}extra-memory-T{steps}{order}-{other.split(",")[0]}'
            print(f'ratio {name} {ours / found[model, other, steps]["extra"]:.3f}')
        if others and steps == 5:
            for other, value in fresh('in_pairs', model, method, others, 5, repeats).items():
                print(f'ratio {prefix}time-T5{order}-{other.split(",")[0]} {value:.3f}', flush=True)
    if {('paper', 'ours', 5), ('paper', 'ours', 50)} <= found.keys():
        flat = found['paper', 'ours', 50]['peak'] / found['paper', 'ours', 5]['peak']
        print(f'ratio flat-memory-T50-over-T5 {flat:.3f}')


def main() -> None:
    "Measure, check, and write the table."
    parser = ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('--models', nargs='+', choices=MODELS, default=MODELS)
    parser.add_argument('--steps', nargs='+', type=int, default=[5], help='inner steps, T')
    parser.add_argument('--longest', type=int, default=10, help='steps of peers in exact order')
    parser.add_argument('--repeats', type=int, default=3, help='processes for each row, and pairs')
    parser.add_argument('--job', help='for the processes that this one starts')
    options = parser.parse_args()
    if options.job:
        job, *arguments = json.loads(options.job)
        return print(json.dumps(JOBS[job](*arguments)))
    print(f'{torch.get_num_threads()} threads; higher and torchopt, where installed: {PEERS}')
    for peer in {'higher', 'torchopt'} - set(PEERS):
        print(f'{peer}: not installed')
    for order in (1, 2):
        few, many = by_pages('many_tasks', order)
        print(f'small model, order {order}: {few:.0f} MB after 3 tasks, {many:.0f} MB after 15')
        assert many < 1.03 * few, 'memory grows from task to task'
    found = measure_all(rows(options.models, options.steps, options.longest), options.repeats)
    check_equal(found)
    write_table(found)
    print_ratios(found, options.repeats)


if __name__ == '__main__':
    main()
