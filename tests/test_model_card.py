"The model cards say what was measured: their numbers against the result files of the study."

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from torch.nn import GroupNorm

from eosvos.benchmark import read_json
from eosvos.resnet import FrozenBatchNorm2d
from eosvos.weights import SHIPPED, load_model, load_rates, read_weights

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


def of_parent(steps):
    return measured(f'handcrafted-{steps}', f'handcrafted-{steps}-again')


def rate_of_parent(steps):
    "The single rate of a row: results of before hold it in the configuration."
    setup = read_json(RESULTS / f'davis/handcrafted-{steps}.json')['setup']
    return setup['config']['fine_tune'].get('lr', setup['rates'])


@pytest.mark.parametrize(
    'label, row',
    [
        ('e-osvos-10', 'large-10'),
        ('e-osvos-10-ona', 'large-10-ona'),
        ('first training: e-osvos-10', 'group-1-10'),
        ('first training: e-osvos-50', 'group-1-50'),
    ],
)
def test_table_of_both_seeds(label, row):
    text = SHIPPED['small'].with_suffix('.md').read_text()
    said = re.search(rf'^\| {label} \|(.+)\|$', text, re.M)[1]
    again = f'{row}-again'
    both = (RESULTS / f'davis/{again}.json').exists()
    found = measured(row) + (measured(again) if both else ['-'] * 3)
    assert said.replace('|', ' ').split() == found


def test_sentences_of_small():
    shipped = read_json(RESULTS / 'davis/large-10.json')
    assert shipped['processes'] == 2
    fps = shipped['fps']
    said = [
        f'{fps:.1f} frames a second in each of two processes on two cores, {2 * fps:.1f} together',
        'with collages at test: {}, {} and {}; with the other draws {}, {} and {}.'.format(
            *measured('beside-1-10'), *measured('beside-1-10-again')
        ),
        'a hundred steps, mean of two seeds: {}, {} and {}; '
        'without fine-tuning {}, {} and {}.'.format(*of_parent(100), *measured('zero-shot')),
    ]
    assert [s for s in said if s not in card('small')] == []


def test_demo_of_small_is_that_of_page_13():
    cells = json.loads((ROOT / 'nbs/13_follow.ipynb').read_text())['cells']
    printed = [''.join(o.get('text', '')) for cell in cells for o in cell.get('outputs', [])]
    (lines,) = [text for text in printed if text.startswith('one rate, nearness 0.7 ')]
    found = re.findall(r'^(?:learned|collages), nearness 0.85 +J (.+) mean', lines, re.M)
    without, pasted = (', '.join(o.split()[:-1]) + f' and {o.split()[-1]}' for o in found)
    assert f'seeds 1 to 4: {pasted}; without collages {without} (' in card('small')


def test_what_the_shipped_model_is():
    model, config = load_model('small')
    parts = [
        sum(isinstance(m, kind) for m in model.modules()) for kind in (FrozenBatchNorm2d, GroupNorm)
    ]
    assert parts == [0, 48] and config.roi.mask_loss == 'bce'
    counts = [
        sum(p.numel() for p in model.parameters()),
        sum(r.numel() for r in load_rates('small').values()),
    ]
    said = [
        '{:,} parameters in half precision and {:,} learning rates'.format(*counts),
        f'{parts[1]} GroupNorms, of eight channels a group, and learns masks by cross-entropy',
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


def test_what_parent_group_misses():
    *_, last = (RESULTS / 'group_norm.csv').read_text().splitlines()
    steps, *shares = last.split(',')
    found = [f'{100 * float(share):.0f}' for share in shares]
    said = 'in {} steps of Adam', 'misses {}, {}, {} and {} % of the variance of C2 to C5'
    said = said[0].format(steps), said[1].format(*found)
    assert [s for s in said if s not in card('parent')] == []
    assert read_weights('parent-group')[1]['notes']['steps'] == steps
