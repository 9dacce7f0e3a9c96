"What the first page says of both models: its numbers against weights, presets and tables."

import json
import re
import sys
from pathlib import Path

import torch
from torch import nn

from eosvos.benchmark import read_json
from eosvos.follow import PAPER_SEGMENT, SMALL_SEGMENT
from eosvos.mask_rcnn import PAPER
from eosvos.resnet import FrozenBatchNorm2d
from eosvos.small import build
from eosvos.weights import SHIPPED, load_model

ROOT = Path(__file__).parent.parent
INDEX = ROOT / 'nbs/index.ipynb'

sys.path.append(str(ROOT / 'nbs'))
from lesson import percent  # noqa: E402


def missing(*sentences):
    "Those that the first page does not say."
    text = ' '.join(''.join(cell['source']) for cell in json.loads(INDEX.read_text())['cells'])
    return [sentence for sentence in sentences if sentence not in text]


def size(model):
    return sum(p.numel() for p in model.parameters())


def has(model, kind):
    return any(isinstance(m, kind) for m in model.modules())


def test_sizes_and_the_papers_score():
    with torch.device('meta'):
        paper = build(PAPER)
    ours, file = load_model('small')[0], SHIPPED['small'].stat().st_size
    assert round(size(paper) / size(ours)) == 9
    table = read_json(ROOT / 'benchmarks/paper.json')['table_2']
    row = next(line for line in table if line.startswith('e-osvos-10 '))
    sizes = f'{size(ours) / 1e6:.0f} million parameters, {file / 1e6:.0f} MB'
    score = f'reaches J {row.split()[2]} on all twenty sequences with ten steps'
    assert missing(sizes, 'a factor of nine', score) == []


def stored_table(word):
    "The rows, split into cells, of the first page's stored table whose header has the word."
    for cell in json.loads(INDEX.read_text())['cells']:
        for output in cell.get('outputs', []):
            header, *rows = ''.join(output['data'].get('text/markdown', '')).splitlines() or ['']
            if word in header:
                return [row.strip('| ').split(' | ') for row in rows[1:]]


def test_our_scores_are_those_of_the_result_file():
    result = read_json(ROOT / 'benchmarks/ablation/davis/large-10.json')
    j, f, both = (f'{percent(result)[key]:.1f}' for key in ('J', 'F', 'J&F'))
    assert ['**mean**', j, f] in stored_table('sequence')
    (_, parameters, _, *scores, on, _), *others = stored_table('seconds a frame')
    assert (parameters, scores) == (f'{size(load_model("small")[0]) / 1e6:.1f}', [j, both])
    assert (on, len(others)) == ('ten of 2016', 4)
    for name, parameters, _, j, both, _, licence in others:  # a number of theirs has its source
        for value in (parameters, j, both, licence):
            assert value == '—' or re.fullmatch(r'\[[\w. ]+\]\(https://\S+\)', value), name


def test_table_of_deviations():
    model, config = load_model('small')
    with torch.device('meta'):
        paper = build(PAPER)
    for one in paper, model:
        assert has(one, nn.GroupNorm) and not has(one, FrozenBatchNorm2d)
    groups = {m.num_channels / m.num_groups for m in model.modules() if isinstance(m, nn.GroupNorm)}
    assert groups == {8} and PAPER.roi.mask_loss == 'hinge' and config.roi.mask_loss == 'bce'
    fine, large = SMALL_SEGMENT.fine_tune, PAPER.image
    assert SMALL_SEGMENT.online_agree and not PAPER_SEGMENT.online_agree
    assert (fine.batch, PAPER_SEGMENT.fine_tune.batch) == (1, 3) and config.body == 'lite0-group'
    assert (
        missing(
            'the small model: groups of eight channels |',
            'the small model: cross-entropy |',
            'three augmented copies (small model: one)',
            'the small model: another thing lies over each (`--fine-tune.paste`)',
            f'clips at a norm of {fine.clip:.0f} |',
            "the small model leaves out those on which the first frame's weights disagree",
            f'{PAPER_SEGMENT.extra_boxes} copies grown outwards '
            f'(small model: {SMALL_SEGMENT.extra_boxes})',
            f'ResNet-50, {large.min_side} × {large.max_side} pixels',
            f'{config.image.min_side} × {config.image.max_side} | to run on a laptop',
        )
        == []
    )
