"The instance test: two exact objects a clip, the same files each time. Needs DAVIS."

import csv
import importlib.util
import os
from pathlib import Path

import pytest
import torch

from eosvos.datasets import HELD_OUT, davis
from eosvos.video import read_mask

SCRIPT = Path(__file__).resolve().parent.parent / 'data_scripts' / 'make_instance_test.py'
spec = importlib.util.spec_from_file_location('make_instance_test', SCRIPT)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
ROWS = list(csv.DictReader(script.LIST.open()))


def test_the_list_is_of_held_out_sequences():
    assert len(ROWS) == 10 and all(
        {row['base'], row['guest']} <= set(HELD_OUT) and row['base'] != row['guest'] for row in ROWS
    )
    assert len({frozenset((row['base'], row['guest'])) for row in ROWS}) == 10, 'each pair once'


@pytest.mark.skipif('EOSVOS_DATA' not in os.environ, reason='EOSVOS_DATA: needs DAVIS')
def test_clips_are_exact_and_read_as_davis_2017(tmp_path, monkeypatch):
    few = tmp_path / 'list.csv'
    with few.open('w', newline='') as file:
        writer = csv.DictWriter(file, script.COLUMNS)
        writer.writeheader()
        writer.writerow(ROWS[0] | dict(frames='3'))
    monkeypatch.setattr(script, 'LIST', few)
    data = Path(os.environ['EOSVOS_DATA'])
    for _ in range(2):
        script.make(data, tmp_path / 'set')  # again over itself
    made, real = davis(tmp_path / 'set', 'val', year=2017)
    assert real.name == 'bmx-trees' and real.ids == [1, 2] and len(real.frames) == 80
    assert made.ids == [1, 2] and len(made.frames) == 3
    script.make(data, tmp_path / 'other', few)
    (other,) = davis(tmp_path / 'other', 'val', year=2017)
    assert other.name == made.name, 'another list holds nothing but its clips'
    sets = {s.name: s for s in davis(data / 'DAVIS', 'train', '240p')}
    row = ROWS[0]
    base = sets[row['base']]
    for i in range(3):
        ids = read_mask(made.masks[i])
        true = base.mask(i) > 0
        assert torch.equal((ids == 1) | (ids == 2) & true, true), (
            'the base shows wherever the guest does not hide it'
        )
        apart = (made.image(i) - base.image(i)).abs().amax(0)
        far = torch.nn.functional.max_pool2d((ids == 2)[None].float(), 9, 1, 4)[0] == 0
        assert apart[far].max() < 0.2 and apart[ids == 2].mean() > 0.1, (
            'only the guest changes pixels, but for the JPEG'
        )
