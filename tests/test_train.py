"Parent training over two processes, and the shipped weights against the recipe that made them."
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import demo_set

from eosvos.core import DEMO
from eosvos.datasets import Sequence
from eosvos.follow import SMALL_SEGMENT
from eosvos.parent import ParentConfig, follow_scores
from eosvos.small import SMALL
from eosvos.train import main
from eosvos.weights import SHIPPED, load_model, read_weights

SCRIPT = '''
import sys, torch
from pathlib import Path
from eosvos.parent import ParentConfig, train_parent
from eosvos.runs import Processes
torch.set_num_threads(1)
data, out = Path(sys.argv[1]), Path(sys.argv[2])
config = ParentConfig(shares=(('demo', 1.0),), size=(96, 160), steps=2, warmup=1, batch=2, every=1)
with Processes() as processes:
    numbers = [torch.full((2, 2), float(processes.rank)), torch.tensor([float(processes.rank)])]
    assert not processes.average(numbers) and numbers[0].eq(0.5).all() and numbers[1].item() == 0.5
    processes.stop = processes.rank == 1
    assert processes.average(numbers), 'one process was asked to stop: all must know'
    processes.stop = False
    run = train_parent(config, data, out, processes=processes)
torch.save(run.model.state_dict(), out / f'rank{processes.rank}.pt')
'''


@pytest.fixture
def pictures(tmp_path):
    "Two frames of the demo clip, laid out as an image set called `demo`."
    demo_set(tmp_path / 'data', 2)
    return tmp_path / 'data'


def test_two_processes_train_one_model(pictures, tmp_path):
    script, out = tmp_path / 'script.py', tmp_path / 'out'
    script.write_text(SCRIPT)
    command = [Path(sys.executable).parent / 'torchrun', '--nproc-per-node', '2', '--master-port', '0', '--standalone', script, pictures, out]
    run = subprocess.run([str(o) for o in command], capture_output=True, text=True, timeout=300, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert run.returncode == 0, run.stderr[-3000:]
    first, second = (torch.load(out / f'rank{rank}.pt', weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (out / 'log.csv').read_text().count('\n') == 3 and (out / 'log.png').exists()    # written once, by the first


def test_unknown_preset_is_refused(tmp_path):
    with pytest.raises(ValueError, match='grandparent'): main('grandparent', tmp_path, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_shipped_parent_is_of_the_recipe():
    tensors, about = read_weights(SHIPPED['parent'])
    assert about['notes'] == dict(stage='parent', steps=str(ParentConfig().steps), seed=str(ParentConfig().seed))
    assert SHIPPED['parent'].stat().st_size < 20e6 and sum(t.dtype == torch.float16 for t in tensors.values()) == 186
    log = SHIPPED['parent'].with_name('parent_training.csv').read_text().splitlines()
    assert len(log) == ParentConfig().steps + 1 and load_model('parent')[1] == ParentConfig().model == SMALL


def test_objects_are_scored_after_the_frame_that_gives_them(monkeypatch):
    files = [tuple(sorted((DEMO / folder).iterdir())) for folder in ('frames', 'masks')]
    whole = Sequence('cup', *files, starts=((1, 9),))

    def perfect_later(model, clip, given, config, rates):
        assert list(given) == [3]   # frame 12 is the first of every fourth that comes after frame 9
        for i in range(len(clip)): yield i, whole.mask(4 * i) if i > 3 else torch.zeros_like(given[3])

    monkeypatch.setattr('eosvos.parent.segment', perfect_later)
    assert follow_scores(None, [whole], SMALL_SEGMENT, stride=4) == {'cup': 1.0}
    monkeypatch.setattr('eosvos.parent.segment', lambda *_, **__: ((i, whole.mask(i)) for i in range(40)))
    with pytest.raises(ValueError, match='cup: expected an object before the last two of 40 frames'):
        follow_scores(None, [replace(whole, starts=((1, 38),))], SMALL_SEGMENT)
