"""The study of the small model: a table like the paper's Table 1, with all that it needs.

    export OMP_NUM_THREADS=1
    .venv/bin/python benchmarks/ablation.py DATA              # train and measure what is missing
    .venv/bin/python benchmarks/ablation.py DATA 'common-1*'  # only for rows with such names

It takes many hours. DATA is what `data_scripts/lay_out.py` lays out: parts of DAVIS and sets of
still pictures; notebook `18_study` says which. The training of the parent needs the extra `train`
besides.

Two processes of one thread share each training and each measurement. What is interrupted goes on
when called again. A measurement is one call of `eosvos benchmark`; its result is kept in
`benchmarks/ablation/SET/ROW.json`. The single rates of the handcrafted rows are searched on the
five sequences held out of DAVIS train (every second frame); `benchmarks/ablation/grid.csv` keeps
the J of each. In rows of `neuron` the rates of a tensor take no shared outer step. What the end of
a row's name says:

- `bold`: the rate that the learned ones start from, also the best of the grid for fifty steps;
- `again`: other random draws while fine-tuning and following;
- `start`: the learned weights with the best single rate;
- `rates`: the learned rates with the parent's weights;
- `no-boxes`, no box propagation; `whole`, no search window; `score`, nearness does not count;
- `ona`: online adaptation.

Rows of `group` are of the preset `small`, with GroupNorm. From there `ten` was trained on, twice,
and `large`, the shipped model, is the second of these with larger pictures. With `lovasz` in their
names they have the Lovász loss: `group-lovasz-1` from its start, `ten-lovasz-1` goes on from there
(`large-lovasz`: with larger pictures), and `ten-3-lovasz` from `ten-2`. With `simple` in their
names, the outer loop steps logarithms and has nothing else that the paper's has not: `simple-1` is
otherwise `group-1`, `simple-ten` goes on from there, and `simple-large` has larger pictures. Those
of `common` are of the model before all these (`FIRST`), with frozen BatchNorm, as are all others
without `groupnorm` in their names. All rows but those of `group`, `simple`, `ten`, `large` and
`beside` fine-tune without collages (`PLAIN`). Only those of `LARGE` follow as the shipped model
does; all others look at 100 jittered boxes a frame, weigh nearness less, and ask for no second
opinion when they adapt (`FORMER`), unless they are of `beside`, which do ask. `collages.csv` is
`follow_scores` of `group-1` with `fine_tune.paste` 0 and 1, and `opinion.csv` that of `common-1`
with `online_agree` and without, with collages; of the held-out and composed clips every second
frame. `tries.csv` holds the same of changes to `ten-1`, and of the Lovász loss, `larger_body.csv`
that of parents, and `orders/simpler.csv` and `simpler.csv` that of outer loops; notebook 18
explains them.
"""

import argparse
import csv
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
import tyro

from eosvos.datasets import HELD_OUT, davis
from eosvos.follow import follow_scores, load, variant
from eosvos.train import PRESETS
from eosvos.weights import load_model, load_rates, read_weights, save_weights

RESULTS = Path(__file__).with_name('ablation')
GRID = '3e-4', '1e-3', '3e-3', '1e-2', '3e-2', '1e-1'
SEED_2 = ['--seed', '2']
FIRST = [  # the recipe of the first shipped model: frozen BatchNorm, other tasks
    'small',
    '--tasks.set-weights',
    *'davis 0.4 coco128 0.2 pennfudan 0.2 ecssd 0.1 duts 0.05 horses 0.05'.split(),
    *'--tasks.paste 0.9 --tasks.alike 0'.split(),
]
ALONE = ['--shared-step', '0']  # every rate takes its own steps only, as in the paper
SIMPLE = [*ALONE, *'--lr-rates 0.8 --max-rate None --clip None'.split()]  # logarithms and the mean
LAST = ['--ema-decay', '0']  # the last values are kept, not their running mean
FORMER = '--extra-boxes 100 --nearness 0.7 --no-online-agree'.split()  # before `large`
PLAIN = ['--fine-tune.paste', '0']  # nothing lies over the copies of the first frame
BRIEF = [*FIRST, '--steps', '150']  # a quarter of an hour, to compare what is learned
TEN = ['small', *'--tasks.steps 10 --tasks.again 0.8 --lr 3e-5 --lr-rates 0.1'.split()]
TRAIN = {  # folder below RUNS -> the settings of `eosvos train` that make it
    'parent': ['parent'],
    'group-1': ['small'],
    'group-lovasz-1': ['small'],  # the same with the Lovász loss
    # ten inner steps and collages in them, as at test, and half as many boxes that get a mask
    'ten-1': [*TEN, *'--steps 200 --seed 5'.split()],
    'ten-2': [*TEN, *'--steps 240 --seed 6'.split()],
    'ten-3-lovasz': [*TEN, *'--steps 200 --seed 7'.split()],
    'ten-lovasz-1': [*TEN, *'--steps 200 --seed 5'.split()],
    # `group-1` and `ten-1` with logarithms alone, whose steps are four times as large
    'simple-1': ['small', *SIMPLE, *LAST],
    'simple-ten': [*TEN, *SIMPLE, *LAST, *'--lr-rates 0.4 --steps 240 --seed 5'.split()],
    'common-1': FIRST,
    'common-2': [*FIRST, *SEED_2],
    'long-1': [*FIRST, '--steps', '800', '--validate-every', '200'],  # twice the budget
    'neuron-1': [*FIRST, *ALONE],
    'neuron-2': [*FIRST, *ALONE, *SEED_2],
    # other tasks; when it was measured, the draws within a step were still those of seed 1
    'further-1': [
        *FIRST,
        *ALONE,
        '--tasks.steps',
        '10',
        '--seed',
        '3',
        '--lr',
        '3e-5',
        '--lr-rates',
        '0.1',
        '--steps',
        '200',
    ],
    'rates-1': [
        *FIRST,
        *ALONE,
        '--tasks.steps',
        '10',
        '--lr',
        '0',
        '--steps',
        '200',
    ],  # the initialisation stands still
    'brief-common-1': BRIEF,
    'brief-lovasz-1': BRIEF,
    'brief-groupnorm-1': BRIEF,
    'brief-lovasz-groupnorm-1': BRIEF,
    'brief-simple-groupnorm-1': [*BRIEF, *SIMPLE],
    'brief-parameter-1': [*BRIEF, '--level', 'parameter'],
    'brief-neuron-1': [*BRIEF, *ALONE],
    'brief-neuron-2': [*BRIEF, *ALONE, *SEED_2],
    'brief-model-1': [*BRIEF, *ALONE, '--level', 'model'],
    'brief-model-2': [*BRIEF, *ALONE, '--level', 'model', *SEED_2],
    'brief-tensor-1': [*BRIEF, *ALONE, '--level', 'tensor'],
}
STARTS = {  # what a training starts from, if not from the parent
    'group-1': 'parent-group',
    'group-lovasz-1': 'parent-group',
    'simple-1': 'parent-group',
    'ten-1': 'group-1',
    'ten-2': 'ten-1',
    'ten-3-lovasz': 'ten-2',
    'ten-lovasz-1': 'group-lovasz-1',
    'simple-ten': 'simple-1',
    'brief-groupnorm-1': 'parent-group',
    'brief-lovasz-groupnorm-1': 'parent-group',
    'brief-simple-groupnorm-1': 'parent-group',
    'further-1': 'neuron-1',
}
LARGE = {  # with larger pictures, those of
    'large': 'ten-2',
    'large-lovasz': 'ten-lovasz-1',
    'simple-large': 'simple-ten',
}


def rows() -> dict[str, tuple[str, list[str]]]:
    """Name of a row -> the folder of its weights, and the arguments of `eosvos benchmark`.

    In these `search` stands for the best rate; `NAME+parent` is the parent with the rates of NAME.
    """
    found = {'zero-shot': ('parent', ['--variant', 'e-osvos-0'])}
    for t in 10, 50, 100:
        for end, seed in ('', '1'), ('-again', '2'):
            found[f'handcrafted-{t}{end}'] = (
                'parent',
                ['--variant', f'e-osvos-{t}', '--lr', 'search', '--seed', seed],
            )
    found['handcrafted-10-bold'] = 'parent', ['--variant', 'e-osvos-10', '--lr', '3e-3']
    for name in TRAIN:
        if name != 'parent':
            found[f'{name}-10'] = name, ['--variant', 'e-osvos-10']
    for t in 1, 5, 20:
        found[f'common-1-{t}'] = 'common-1', ['--variant', f'e-osvos-{t}']
    for name in 'common-1', 'common-2', 'neuron-1', 'neuron-2':
        for t in 0, 50, 100:
            found[f'{name}-{t}'] = name, ['--variant', f'e-osvos-{t}']
        found[f'{name}-10-start'] = name, ['--variant', 'e-osvos-10', '--lr', 'search']
        found[f'{name}-10-rates'] = f'{name}+parent', ['--variant', 'e-osvos-10']
        found[f'{name}-10-no-boxes'] = name, ['--variant', 'e-osvos-10', '--extra-boxes', '0']
        found[f'{name}-10-whole'] = name, ['--variant', 'e-osvos-10', '--fill', '0']
        found[f'{name}-10-score'] = name, ['--variant', 'e-osvos-10', '--nearness', '0']
        found[f'{name}-10-ona'] = name, ['--variant', 'e-osvos-10-ona']
    found = {row: (name, [*options, *PLAIN]) for row, (name, options) in found.items()}
    for end, options in ('10', []), ('10-ona', ['--online-agree']), ('100', []):
        found[f'beside-1-{end}'] = 'common-1', ['--variant', f'e-osvos-{end}', *options]
    for end in '0', '1', '10', '50', '100', '10-ona', '50-ona':
        for name in (*(n for n in TRAIN if n.startswith(('group', 'simple', 'ten'))), *LARGE):
            found[f'{name}-{end}'] = name, ['--variant', f'e-osvos-{end}']
    for row, (name, options) in found.items():
        if name not in LARGE:  # before what a row itself asks for, which counts
            found[row] = name, [*options[:2], *FORMER, *options[2:]]
    once_more = 'beside-1', 'group-1', 'group-lovasz-1', 'simple-1', 'ten-1', *LARGE
    twice = [f'{name}-10' for name in once_more]
    for row in (*twice, *(f'{row}-ona' for row in twice)):
        folder, options = found[row]
        found[f'{row}-again'] = folder, [*options, *SEED_2]
    return found


def together(*command: str | Path) -> None:
    "Run a program in two processes."
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--no-python']
    # behind the lone `--`, or torchrun takes `--start` for an option of its own
    subprocess.run([*torchrun, '--nproc-per-node', '2', '--', *map(str, command)], check=True)


def with_lovasz(file: Path, new: Path) -> Path:  # the new file
    "The same weights, and rates if there are any, to be trained on with the Lovász loss."
    model, config = load_model(file)
    config = replace(config, roi=replace(config.roi, mask_loss='hinge'))
    save_weights(model, config, new, rates=load_rates(file))
    return new


def with_fewer_masks(file: Path, new: Path) -> Path:  # the new file
    "The same weights and rates, but of 64 boxes at most 4 get a mask, not 8."
    model, config = load_model(file)
    config = replace(config, roi=replace(config.roi, positives=1 / 16))
    save_weights(model, config, new, rates=load_rates(file))
    return new


def with_larger_pictures(file: Path, new: Path) -> Path:  # the new file
    "The same weights and rates, for pictures of 288 x 512 pixels and 100 boxes a frame."
    model, config = load_model(file)
    image = replace(config.image, min_side=288, max_side=512)
    rpn = replace(config.rpn, after_nms=(config.rpn.after_nms[0], 100))
    config = replace(config, image=image, rpn=rpn)
    save_weights(model, config, new, read_weights(file)[1]['notes'], rates=load_rates(file))
    return new


def with_rates(file: Path, learned: Path, new: Path) -> Path:  # the new file
    "The same weights with the learning rates of another file."
    model, config = load_model(file)
    save_weights(model, config, new, rates=load_rates(learned))
    return new


def steps_of(name: str) -> int:
    "How many steps a training takes."
    preset, *settings = TRAIN[name]
    return tyro.cli(type(PRESETS[preset]), default=PRESETS[preset], args=settings).steps


def complete(name: str, runs: Path) -> bool:
    "Whether a training has taken all its steps."
    file = runs / name / 'weights.safetensors'
    notes = read_weights(file)[1]['notes'] if file.exists() else {}
    return notes.get('outer_steps', notes.get('steps')) == str(steps_of(name))


def distilled(parent: Path, data: Path, runs: Path) -> Path:  # the weights
    "The parent with GroupNorm in its body."
    file = runs / 'group-norm/parent-400.safetensors'
    if not file.exists():
        script = Path(__file__).with_name('group_norm.py')
        command = [sys.executable, script, data, '--start', parent, '--out', file.parent]
        subprocess.run(command, check=True)
    return file


def train(name: str, data: Path, runs: Path) -> Path:  # the weights
    "A training that is not complete, or nothing. SystemExit where it was interrupted."
    if name == 'parent-group':
        return distilled(train('parent', data, runs), data, runs)
    if name in LARGE:
        return with_larger_pictures(train(LARGE[name], data, runs), runs / f'{name}.safetensors')
    preset, *settings = TRAIN[name]
    if name != 'parent':
        before = STARTS.get(name, 'parent')
        start = train(before, data, runs)
    if 'lovasz' in name and 'lovasz' not in before:
        start = with_lovasz(start, runs / f'{before}-lovasz.safetensors')
    if 'ten' in name.split('-') and 'ten' not in before.split('-'):
        start = with_fewer_masks(start, runs / f'{before}-fewer-masks.safetensors')
    if name != 'parent':
        settings += ['--start', start]
    file = runs / name / 'weights.safetensors'
    if not complete(name, runs):
        where = '--data', data, '--out', runs / name, '--resume'
        together(sys.executable, '-m', 'eosvos.train', preset, *where, *settings)
        if not complete(name, runs):
            sys.exit(
                f'{file}: expected {steps_of(name)} steps, it was cut short; call again to go on'
            )
    return file


def held_out_j(file: Path, data: Path, steps: int, lr: str) -> float:  # in percent
    "Mean J of the held-out sequences with one rate."
    torch.set_num_threads(1)
    tracker = load(file, 'cpu')
    config = variant(f'e-osvos-{steps}', tracker.config)
    config = tyro.cli(type(config), default=config, args=[*FORMER, *PLAIN])
    tracker = replace(tracker, rates=float(lr), config=config)
    sequences = [s for s in davis(data / 'DAVIS', 'train', '240p') if s.name in HELD_OUT]
    return 100 * float(np.mean(follow_scores(tracker, sequences, stride=2)))


def search(file: Path, steps: str, data: Path) -> str:  # the best rate
    "The single rate for a number of inner steps, by grid search, two rates at a time."
    table = RESULTS / 'grid.csv'
    key = f'{file.parent.name}@{sha256(file.read_bytes()).hexdigest()[:8]}', steps
    known = {('weights', 'T'): list(GRID)}
    if table.exists():
        known = {tuple(row[:2]): row[2:] for row in csv.reader(table.open())}
    if key not in known:
        score = partial(held_out_j, file, data, int(steps))
        with ProcessPoolExecutor(2) as pool:
            known[key] = [f'{j:.1f}' for j in pool.map(score, GRID)]
        table.parent.mkdir(parents=True, exist_ok=True)
        with table.open('w', newline='') as out:
            csv.writer(out, lineterminator='\n').writerows([*k, *v] for k, v in known.items())
    return max(zip(known[key], GRID, strict=True), key=lambda pair: float(pair[0]))[1]


def measure(row: str, weights: str, options: list[str], data: Path, runs: Path) -> None:
    "The two results of a row, where they are missing."
    sets = dict(
        davis=[data / 'DAVIS', '--dataset', 'davis-2016', '--split', 'val10'],
        instances=[runs / 'instances', '--dataset', 'davis-2017', '--split', 'val'],
    )
    missing = [name for name in sets if not (RESULTS / name / f'{row}.json').exists()]
    if not missing:
        return
    name, _, start = weights.partition('+')
    model = train(name, data, runs)
    if start:
        model = with_rates(train(start, data, runs), model, runs / f'{weights}.safetensors')
    if 'search' in options:
        best = search(model, options[1].split('-')[2], data)
        options = [best if o == 'search' else o for o in options]
    for name in missing:
        print(f'{name} {row}', flush=True)
        out = runs / 'ablation' / name / row
        program = Path(sys.executable).with_name('eosvos')
        together(program, 'benchmark', *sets[name], '--out', out, '--model', model, *options)
        (RESULTS / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(out / 'result.json', RESULTS / name / f'{row}.json')


def write_rates(runs: Path) -> None:
    "The median learned rate of each layer in each full training, once all are complete."
    names = 'common-1', 'common-2', 'neuron-1', 'neuron-2'
    if not all(complete(name, runs) for name in names):
        return
    learned = [load_rates(runs / name / 'weights.safetensors') for name in names]
    table = [
        [layer, *(f'{rates[layer].median():.6f}' for rates in learned)]
        for layer, r in learned[0].items()
        if r.dim() > 1
    ]
    with (RESULTS / 'rates.csv').open('w', newline='') as out:
        csv.writer(out, lineterminator='\n').writerows([['layer', *names], *table])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('data', type=Path)
    parser.add_argument(
        'rows', nargs='*', default=['*'], help='patterns of names of rows; all if none'
    )
    parser.add_argument('--runs', type=Path, default=Path('runs'), help='folder of trainings')
    a = parser.parse_args()
    if not (a.runs / 'instances').exists():
        script = Path(__file__).parents[1] / 'data_scripts/make_instance_test.py'
        command = [sys.executable, script, a.data, '--out', a.runs / 'instances']
        subprocess.run(command, check=True)
    for row, (weights, options) in rows().items():
        if any(fnmatch(row, pattern) for pattern in a.rows):
            measure(row, weights, options, a.data, a.runs)
    write_rates(a.runs)


if __name__ == '__main__':
    main()
