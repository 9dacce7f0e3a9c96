"The model cards say what was measured: their numbers against the result files of the study."

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from torch.nn import GroupNorm

from eosvos.benchmark import read_json
from eosvos.resnet import FrozenBatchNorm2d
from eosvos.weights import SHIPPED, load_model, load_rates

RESULTS = Path(__file__).parent.parent / 'benchmarks/ablation'

ROOT = Path(__file__).parent.parent
sys.path += [str(ROOT / 'benchmarks'), str(ROOT / 'nbs')]
from ablation import complete, together  # noqa: E402
from lesson import percent  # noqa: E402


def card(name):
    "The text of a model card on one line."
    return ' '.join(SHIPPED[name].with_suffix('.md').read_text().split())


def measured(*rows):
    "J, F on the ten sequences, J on the instance test: means over the rows, as a card has them."
    found = {
        where: [percent(read_json(RESULTS / where / f'{row}.json')) for row in rows]
        for where in ('davis', 'instances')
    }
    return [
        f'{np.mean([r[key] for r in found[where]]):.1f}'
        for where, key in (('davis', 'J'), ('davis', 'F'), ('instances', 'J'))
    ]


def of_ten(row):
    "J and F on the ten sequences."
    ten = percent(read_json(RESULTS / f'davis/{row}.json'))
    return f'{ten["J"]:.1f}', f'{ten["F"]:.1f}'


def of_parent(steps):
    return measured(f'handcrafted-{steps}', f'handcrafted-{steps}-again')


def rate_of_parent(steps):
    "The single rate of a row: results of before hold it in the configuration."
    setup = read_json(RESULTS / f'davis/handcrafted-{steps}.json')['setup']
    return setup['config']['fine_tune'].get('lr', setup['rates'])


@pytest.mark.parametrize('steps', [10, 50, 100])
def test_table_of_both_seeds(steps):
    row = re.search(
        rf'^\| {steps} \|(.+)\|$', SHIPPED['small'].with_suffix('.md').read_text(), re.M
    )[1]
    assert row.replace('|', ' ').split() == measured(f'common-1-{steps}') + measured(
        f'common-2-{steps}'
    )


def test_sentences_of_small():
    (j, f, instances), shipped = (
        measured('common-1-10'),
        read_json(RESULTS / 'davis/common-1-10.json'),
    )
    fps, online = shipped['fps'], read_json(RESULTS / 'davis/common-1-10-ona.json')
    assert shipped['processes'] == online['processes'] == 2
    said = [
        f'mean J {j} and F {f}, {fps:.1f} frames a second in each of two processes on two cores, '
        f'{2 * fps:.1f} together; J {instances} on the instance test',
        'a hundred steps, mean of two seeds: {}, {} and {}; '
        'without fine-tuning {}, {} and {}.'.format(*of_parent(100), *measured('zero-shot')),
        'With online adaptation after ten steps: {}, {} and {}, at '.format(
            *measured('common-1-10-ona')
        )
        + f'{online["fps"]:.1f} frames a second in each process.',
        'With twice as many outer steps, seed 1, and ten fine-tuning steps: {}, {} and {},'.format(
            *measured('long-1-10')
        ),
        'With them, ten steps, seed 1: {}, {} and {}.'.format(*measured('beside-1-10')),
        'the weights of the first frame agree: {}, {} and {}.'.format(
            *measured('beside-1-10-ona')
        ),
        'With seed 2 the ten have {} and {} without it, and {} and {} with it'.format(
            *of_ten('beside-1-10-again'), *of_ten('beside-1-10-ona-again')
        ),
    ]
    assert [s for s in said if s not in card('small')] == []


def test_what_the_shipped_model_is():
    model, config = load_model('small')
    parts = [
        sum(isinstance(m, kind) for m in model.modules()) for kind in (FrozenBatchNorm2d, GroupNorm)
    ]
    assert parts == [48, 0] and config.roi.mask_loss == 'bce'
    counts = [
        sum(p.numel() for p in model.parameters()),
        sum(r.numel() for r in load_rates('small').values()),
    ]
    said = [
        '{:,} parameters in half precision and {:,} learning rates'.format(*counts),
        f'{parts[0]} frozen BatchNorms and learns masks by cross-entropy',
    ]
    assert [s for s in said if s not in card('small')] == []


def test_sentences_of_parent():
    j, f, instances = measured('zero-shot')
    fifty, hundred = of_parent(50), of_parent(100)
    said = [
        f'J {j}, F {f} on ten sequences of DAVIS 2016 validation; '
        f'J {instances} on the instance test',
        f'fifty steps at {rate_of_parent(50)}, J {fifty[0]} and {fifty[2]}; '
        f'a hundred at {rate_of_parent(100)}, {hundred[0]} and {hundred[2]} (means of two seeds)',
    ]
    assert [s for s in said if s not in card('parent')] == []


def test_the_study_trains_no_parent_where_the_shipped_one_lies(tmp_path):
    assert not complete('parent', tmp_path)
    (tmp_path / 'parent').mkdir()
    shutil.copy(SHIPPED['parent'], tmp_path / 'parent/weights.safetensors')
    assert complete('parent', tmp_path)


def test_the_study_hands_every_option_to_its_program(capfd):
    together('echo', '--start', 'parent')
    assert capfd.readouterr().out.splitlines() == ['--start parent'] * 2
