"Meta-training over two processes: the same sums as one process, and one model at the end."

import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command import preset
from conftest import demo_set

from eosvos import follow, train
from eosvos.core import DEMO, demo_frame
from eosvos.datasets import Sequence
from eosvos.fine_tuning import as_target, initial_weights, learning_rates
from eosvos.runs import Processes, read_log
from eosvos.small import PAPER, build
from eosvos.tasks import Task
from eosvos.train import (
    PRESETS,
    MetaConfig,
    MetaRun,
    outer_sums,
    task_gradient,
    task_stream,
    train_meta,
)
from eosvos.weights import load_model, load_rates, read_weights, save_weights

SCRIPT = '''
import pickle, sys, torch
from pathlib import Path
from eosvos.runs import Processes
from eosvos.train import MetaRun, outer_sums, task_stream, train_meta
torch.set_num_threads(1)
data, out, file = map(Path, sys.argv[1:])
config = pickle.loads(file.read_bytes())
with Processes() as processes:
    tasks = next(iter(task_stream(config, data, processes, 0)))
    run, tasks = double(MetaRun(config, torch.device('cpu')), tasks)
    sums = outer_sums(run, tasks)
    processes.sum(sums)
    if processes.rank == 0:
        torch.save(sums, out / 'sums.pt')
    run = train_meta(config, data, out / 'run', processes=processes)
torch.save(run.learned, out / f'rank{processes.rank}.pt')
'''
DOUBLE = '''
def double(run, tasks):
    "The same run and tasks in double precision."
    run.model = run.model.double()
    for part in (run.weights, run.rates):
        for name in part: part[name] = part[name].double()
    run.learned = [*run.weights.values(), *run.rates.values()]
    for task in tasks:
        for images, _ in [*task.inner, task.test]: images[:] = [x.double() for x in images]
    return run, tasks
'''
exec(DOUBLE)

WEIGHTS = len(list(load_model('small')[0].parameters()))


@pytest.fixture(scope='module')
def lesson(tmp_path_factory):
    "Frames of the demo clip as an image set, and a small model that looks at tiny pictures."
    root = tmp_path_factory.mktemp('meta')
    demo_set(root, 3)
    model, about = load_model('parent')
    save_weights(
        model,
        replace(about, image=replace(about.image, min_side=32, max_side=56)),
        root / 'tiny.safetensors',
    )
    tasks = replace(PRESETS['small'].tasks, set_weights=(('demo', 1.0),), size=(32, 56), steps=2)
    return root, replace(
        PRESETS['small'],
        start=str(root / 'tiny.safetensors'),
        tasks=tasks,
        batch=4,
        steps=2,
        checkpoint_every=1,
        workers=1,
    )


def first_tasks(config, root):
    "What one process takes in the first outer step."
    return next(iter(task_stream(config, root, Processes(), 0)))


def test_two_processes_are_one(lesson, tmp_path):
    root, config = lesson
    config = replace(config, batch=2, steps=1)
    script = tmp_path / 'script.py'
    script.write_text(DOUBLE + SCRIPT)
    command = [
        Path(sys.executable).parent / 'torchrun',
        '--nproc-per-node',
        '2',
        '--standalone',
        script,
        root,
        tmp_path,
        tmp_path / 'config',
    ]
    (tmp_path / 'config').write_bytes(pickle.dumps(config))
    run = subprocess.run(
        [str(o) for o in command],
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    alone = MetaRun(config, torch.device('cpu'))
    alone, tasks = double(alone, first_tasks(config, root))  # noqa: F821 (made by exec)
    ours = outer_sums(alone, tasks)
    theirs = torch.load(tmp_path / 'sums.pt', weights_only=True)
    assert ours[-1][0] == theirs[-1][0] == 2
    for a, b in zip(ours[:-1], theirs[:-1], strict=True):
        assert (a - b).norm() <= 1e-12 * a.norm().clamp(min=1e-30)
    first, second = (
        torch.load(tmp_path / f'rank{rank}.pt', weights_only=True) for rank in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert (tmp_path / 'run/log.csv').read_text().count('\n') == 2 and (
        tmp_path / 'run/weights.safetensors'
    ).exists()


def test_a_killed_run_ends_as_if_nothing_had_happened(lesson, tmp_path):
    root, config = lesson
    config = replace(config, batch=1, steps=3, checkpoint_every=1, workers=0)
    straight = train_meta(config, root, tmp_path / 'straight')
    child = os.fork()
    if child == 0:  # dies in the middle of the second step
        update = MetaRun.update

        def update_or_die(run, gradients):
            if run.step == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            update(run, gradients)

        MetaRun.update = update_or_die
        try:
            train_meta(config, root, tmp_path / 'pieces')
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert len(read_log(tmp_path / 'pieces/log.csv', 3)) == 1
    resumed = train_meta(config, root, tmp_path / 'pieces')
    for kind in 'learned', 'mean':
        ours, theirs = getattr(resumed, kind), getattr(straight, kind)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    whole, pieces = (read_log(tmp_path / name / 'log.csv', 3) for name in ('straight', 'pieces'))
    assert [row[2:] for row in whole] == [row[2:] for row in pieces] and len(whole) == 3


def test_validation_keeps_the_best(lesson, tmp_path, monkeypatch):
    root, config = lesson
    scores = iter([0.5, 0.7, 0.6])
    monkeypatch.setattr(train, 'validate', lambda *_: next(scores))
    config = replace(config, held_out=('00001',), validate_every=1, steps=3, batch=1, workers=0)
    train_meta(config, root, tmp_path / 'run')
    assert read_weights(tmp_path / 'run/best.safetensors')[1]['notes']['validation'] == '0.7000'
    assert (tmp_path / 'run/validation.csv').read_text().count('\n') == 4
    best, last = (load_rates(tmp_path / f'run/{name}.safetensors') for name in ('best', 'weights'))
    assert any(not torch.equal(best[name], last[name]) for name in best)


def test_two_sequences_of_one_name_are_two(lesson, monkeypatch):
    root, config = lesson
    run = MetaRun(config, torch.device('cpu'))
    files = [tuple(sorted((DEMO / folder).iterdir()))[:16] for folder in ('frames', 'masks')]
    cup = Sequence('cup', *files)
    monkeypatch.setattr(follow, 'follow', lambda *_, **__: ((i, cup.mask(4 * i)) for i in range(4)))
    assert train.validate(run, [cup, cup], Processes()) == 1.0


def test_weights_are_never_behind_or_without_their_checkpoint(lesson, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    root, config = lesson
    config = replace(config, steps=1, batch=1, workers=0)
    for method in 'save', 'publish':
        with monkeypatch.context() as patch:
            patch.setattr(MetaRun, method, killed)
            with pytest.raises(KeyboardInterrupt):
                train_meta(config, root, tmp_path)
        assert not (tmp_path / 'weights.safetensors').exists()
        assert (tmp_path / 'last.pt').exists() == (method == 'publish')
    rates = train_meta(config, root, tmp_path).result()[1]  # no step is left, but to publish
    kept = load_rates(tmp_path / 'weights.safetensors')
    assert all(torch.equal(r, rates[name]) for name, r in kept.items())


def test_rates_of_another_level_are_refused(lesson, tmp_path):
    model, about = load_model(lesson[1].start)
    rates = learning_rates(initial_weights(model), 'tensor')
    file = str(tmp_path / 'tensor.safetensors')
    save_weights(model, about, file, rates=rates)
    with pytest.raises(ValueError, match="tensor.*: learning rates not of level 'neuron'"):
        MetaRun(MetaConfig(start=file), torch.device('cpu'))
    run = MetaRun(MetaConfig(start=file, level='tensor'), torch.device('cpu'))
    assert all(torch.equal(r, rates[name]) for name, r in run.rates.items())


def test_bfloat16_is_close(lesson):
    root, config = lesson
    # in a single task other proposals may be sampled
    config = replace(config, batch=4, workers=0)
    task = first_tasks(config, root)
    exact, rough = (
        outer_sums(MetaRun(replace(config, precision=name), torch.device('cpu')), task)[:-1]
        for name in ('float32', 'bf16')
    )
    exact, rough = (torch.cat([t.flatten() for t in sums[:WEIGHTS]]) for sums in (exact, rough))
    assert not torch.equal(exact, rough) and torch.cosine_similarity(exact, rough, dim=0) > 0.7


def tiny(config):
    "The configuration of a model that looks at tiny pictures."
    return replace(config, image=replace(config.image, min_side=32, max_side=56))


NARROW = replace(PAPER.roi, box_width=64, mask_width=16, samples=64)
THIN = tiny(replace(PAPER, channels=16, roi=NARROW))


def thin_file(folder):
    "A file of the full model with few channels, random."
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_weights(build(THIN), THIN, folder / 'thin.safetensors', half=False)
    return str(folder / 'thin.safetensors')


@pytest.mark.parametrize('name', ['parent', 'thin'])
def test_bfloat16_steps_see_the_weights_of_their_step(name, tmp_path):
    "On one batch, again and again, the losses fall from step to step as in float32."
    if name == 'thin':
        start = thin_file(tmp_path)
    else:
        rates = {
            name: 0.1 * rate for name, rate in load_rates('small').items()
        }  # so small that roundings do not grow
        start = str(tmp_path / 'parent.safetensors')
        model, about = load_model('parent')
        save_weights(model, tiny(about), start, rates=rates)
    image, ids = demo_frame()
    batch = [image[:, ::4, ::4]], [as_target((ids == 1)[::4, ::4])]
    task, totals = Task('repeated', 0, [batch] * 3, batch), {}
    for precision in 'float32', 'bf16':
        config = MetaConfig(start=start, rate=1e-3, clip=10.0, precision=precision)
        found = task_gradient(MetaRun(config, torch.device('cpu')), task)
        totals[precision] = [sum(losses.values()) for losses in [*found.inner, found.losses]]
    assert totals['bf16'] == pytest.approx(totals['float32'], rel=0.05)
    assert totals['bf16'] != totals['float32']
    for losses in totals.values():
        assert all(after < before for before, after in zip(losses, losses[1:], strict=False)), (
            losses
        )
        assert losses[-1] < 0.7 * losses[0]


def test_channels_last_is_the_same_but_for_rounding(lesson):
    root, config = lesson
    config = replace(config, batch=1, workers=0)
    task = first_tasks(config, root)
    sums = []
    for form in torch.contiguous_format, torch.channels_last:
        run = MetaRun(config, torch.device('cpu'))
        run, task = double(run, task)  # noqa: F821 (made by exec)
        run.model.to(memory_format=form)
        for name, w in run.weights.items():
            if w.dim() == 4:
                run.weights[name] = w.contiguous(memory_format=form)
        run.learned = [*run.weights.values(), *run.rates.values()]
        channels_last = form == torch.channels_last
        assert channels_last == any(not t.is_contiguous() for t in run.learned)
        sums.append(torch.cat([t.flatten() for t in outer_sums(run, task)[:WEIGHTS]]))
    assert (sums[0] - sums[1]).norm() < 1e-9 * sums[0].norm()


def test_interrupts_are_clean(lesson, tmp_path):
    "SIGTERM: the step is finished, the checkpoint written; a resumed run ends as one without."
    root, config = lesson
    code = '''
import os, pickle, signal, sys, torch
from pathlib import Path
from eosvos import train
torch.set_num_threads(1)
update = train.MetaRun.update
def update_and_ask(run, gradients):
    update(run, gradients)
    if run.step == 0: os.kill(os.getpid(), signal.SIGTERM)
train.MetaRun.update = update_and_ask
processes = train.Processes()
processes.listen()
config = pickle.load(sys.stdin.buffer)
run = train.train_meta(config, Path(sys.argv[1]), Path(sys.argv[2]), processes=processes)
print('ended after', run.step)
'''
    config = replace(config, steps=4, checkpoint_every=10, batch=1)
    command = [sys.executable, '-c', code, root, tmp_path / 'run']
    done = subprocess.run(command, input=pickle.dumps(config), capture_output=True, timeout=300)
    assert done.returncode == 0 and b'ended after 2' in done.stdout, done.stderr[-2000:]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    resumed, straight = (
        train_meta(config, root, tmp_path / 'run'),
        train_meta(config, root, tmp_path / 'straight'),
    )
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(resumed.learned, straight.learned, strict=True))
    seconds = [float(row[1]) for row in read_log(tmp_path / 'run/log.csv', 4)]
    assert len(seconds) == 4 and seconds == sorted(seconds)  # the clock goes on


def test_rates_of_a_tensor_take_a_shared_step(lesson):
    root, config = lesson
    config = replace(config, lr=0.0, lr_rates=1e-9, shared_step=1e8)
    run = MetaRun(config, torch.device('cpu'))
    start, before = (
        [t.clone() for t in run.weights.values()],
        {name: r.clone() for name, r in run.rates.items()},
    )
    rng = torch.Generator().manual_seed(0)
    pushes = [
        torch.rand(r.shape, generator=rng) for r in before.values()
    ]  # downwards, each neuron by its own amount
    run.update([torch.zeros_like(w) for w in start] + pushes)
    assert all(torch.equal(a, b) for a, b in zip(start, run.weights.values(), strict=True))
    for name, old in before.items():
        factor = (run.rates[name] / old).flatten()
        torch.testing.assert_close(factor, factor[:1].expand_as(factor))
        assert factor[0] < 1, name


def test_rates_stand_still_where_their_outer_rate_is_zero(lesson):
    root, config = lesson
    run = MetaRun(replace(config, lr_rates=0.0), torch.device('cpu'))
    before = [p.clone() for p in run.rate_params]
    run.update([torch.ones_like(t) for t in run.learned])
    assert run.config.shared_step > 0
    assert all(torch.equal(p, old) for p, old in zip(run.rate_params, before, strict=True))


def test_a_step_without_a_finite_task_stops(lesson, tmp_path, capsys):
    root, config = lesson
    model, about = load_model(config.start)
    torch.nn.init.constant_(model.roi_heads.box_predictor.cls_score.bias, 6e4)
    torch.nn.init.constant_(model.roi_heads.box_predictor.bbox_pred.bias, 6e4)
    save_weights(model, about, tmp_path / 'wild.safetensors', half=False)
    wild = str(tmp_path / 'wild.safetensors')
    config = replace(config, start=wild, batch=2, workers=0, clip=1e30, rate=1e30)
    with pytest.raises(FloatingPointError, match='none of 2 tasks is finite'):
        train_meta(config, root, tmp_path / 'run')
    assert (
        capsys.readouterr().out.count('is left out') == 2
        and not (tmp_path / 'run/last.pt').exists()
    )


def test_another_configuration_is_refused(lesson, tmp_path):
    root, config = lesson
    config = replace(config, steps=1, batch=1, workers=0)
    train_meta(config, root, tmp_path)
    with pytest.raises(ValueError, match=r'last\.pt: holds a run with seed 1, not 2'):
        train_meta(replace(config, seed=2), root, tmp_path)
    with pytest.raises(ValueError, match='3 processes'):
        task_stream(replace(config, batch=4), root, fake(3), 0)
    # what decides nothing of what is learned may be another
    other = replace(config, checkpoint_every=7, workers=1, validate_every=3)
    assert train_meta(other, root, tmp_path).step == 1


def test_a_process_that_does_not_see_the_checkpoint_stops_all(lesson, tmp_path, monkeypatch):
    root, config = lesson
    config = replace(config, steps=1, batch=1, workers=0)
    train_meta(config, root, tmp_path)
    processes = fake(2)

    def sum_with_another(tensors):  # which is at the beginning
        assert [t.tolist() for t in tensors] == [[1, 0]]

    monkeypatch.setattr(processes, 'sum', sum_with_another)
    before = (tmp_path / 'weights.safetensors').stat().st_mtime_ns
    with pytest.raises(ValueError, match=r'one step for all processes, got \[1, 0\]; '):
        MetaRun(config, torch.device('cpu')).resume(tmp_path, processes)
    assert (tmp_path / 'weights.safetensors').stat().st_mtime_ns == before


def fake(world):
    processes = Processes()
    processes.world = world
    return processes


# ---- configurations


def test_changed_presets():
    changes = {
        'steps': 9,
        'tasks.paste': 0,
        'tasks.set_weights': [['demo', 1]],
        'tasks.view.angle': 3,
        'held_out': [],
    }
    config = preset('small', changes)
    assert (config.steps, config.tasks.set_weights, config.tasks.view.angle, config.held_out) == (
        9,
        (('demo', 1.0),),
        3,
        (),
    )
    assert (
        isinstance(config.tasks.paste, float) and config.tasks.size == PRESETS['small'].tasks.size
    )


@pytest.mark.parametrize(
    'changes',
    [
        {'stepz': 1},
        {'tasks.stepz': 1},
        {'steps': 1.5},
        {'steps': 'true'},
        {'cosine': [1]},
        {'steps': []},
        {'tasks': 1},
        {'steps.more': 1},
    ],
)
def test_wrong_changes(changes):
    with pytest.raises(SystemExit):
        preset('small', changes)


def test_a_value_that_no_task_knows():
    with pytest.raises((ValueError, SystemExit)):
        preset('small', {'tasks.pair': 'next'})


def test_the_papers_parent():
    parent, paper = PRESETS['paper-parent'], PRESETS['paper']
    assert parent.start == paper.start and parent.set_weights == paper.tasks.set_weights
    assert (parent.batch, parent.size, parent.lr, parent.paste) == (4, (480, 854), 1e-4, 0)
    view = parent.view
    assert (view.flip, view.angle, view.scale, view.colour) == (0.5, 30, (0.75, 1.25), 0)


def test_the_papers_numbers():
    paper = PRESETS['paper']
    assert paper == MetaConfig(start='coco.safetensors', held_out=(), workers=2)
    assert (paper.tasks.steps, paper.batch, paper.lr, paper.lr_rates) == (5, 4, 1e-5, 1e-5)
    assert (paper.level, paper.rate, paper.ema_decay) == ('neuron', 1e-3, 0)
    assert (paper.clip, paper.max_rate, paper.shared_step, paper.cosine) == (None, None, 0, False)
    tasks = paper.tasks
    assert (tasks.paste, tasks.fill, tasks.view.angle, tasks.view.scale) == (0, 0, 30, (0.75, 1.25))
    assert (tasks.shared_view.colour, tasks.shared_view.hue) == (0.2, 0.1)
