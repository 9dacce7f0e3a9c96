"""Everything that only a GPU can say about speed and memory, in one run of about 25 minutes.

    .venv/bin/python benchmarks/gpu.py            # all parts; writes benchmarks/gpu/<part>.json
    .venv/bin/python benchmarks/gpu.py waits      # some of them: functions marked `part`
    .venv/bin/python benchmarks/gpu.py --tiny --device cpu --out tiny    # does it still run?

Each file holds device, versions and rows; a part that fails leaves its error there, and the others
go on. Pictures are the demo clip, enlarged; weights are random unless `--weights` names a file.
The tiny form takes the small model and small pictures.
"""

import json
import subprocess
import sys
import tempfile
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
import torch.nn.functional as F
from full_iteration import SEED, configuration, peer_model
from full_iteration import make_task as make_scene
from PIL import Image
from torch import Tensor

from eosvos.boxes import Tensors, box_iou
from eosvos.core import DEMO, demo_frame, generator
from eosvos.fine_tuning import (
    Batch,
    FineTuneConfig,
    as_target,
    augmented_batches,
    initial_weights,
    inner_step,
    learning_rates,
)
from eosvos.follow import PAPER_SEGMENT, SMALL_SEGMENT, Tracker, follow, variant
from eosvos.mask_rcnn import MaskRCNN
from eosvos.meta import meta_gradient, unrolled_meta_gradient
from eosvos.runs import Processes
from eosvos.small import PAPER, SMALL, build
from eosvos.train import PRESETS, MetaConfig, MetaRun, outer_sums, task_stream
from eosvos.weights import load_model, save_weights

GIB = 2**30
PARTS = {}  # name: function of the options, which returns rows
# the body of `parent`: with GroupNorm, bfloat16 finds other gradients of the rates (cosine 0.4)
TINY = replace(SMALL, body='lite0', image=replace(SMALL.image, min_side=96, max_side=168))
PAPER_SPEED = {'e-osvos-10': 5.3, 'e-osvos-100-ona': 0.29}  # frames a second, Quadro RTX 6000


def part(function: Callable) -> Callable:
    "A function that the command line may name."
    PARTS[function.__name__] = function
    return function


# ---- what is common to the parts


def on_gpu(options: Namespace) -> bool:
    return options.device.type == 'cuda'


def make_model(options: Namespace) -> MaskRCNN:
    "The paper's model; in the tiny form the small one."
    if options.tiny or options.weights:
        model, _ = load_model('parent' if options.tiny else options.weights, options.device)
        if options.tiny:
            model.image_config = TINY.image
        return model
    torch.manual_seed(0)
    return build(PAPER).to(options.device, memory_format=torch.channels_last)


def scene(options: Namespace, index: int = 0) -> tuple[Tensor, Tensor]:
    "A frame of the demo clip, (3, H, W), and its ids, (H, W): 480p, or small."
    image, ids = demo_frame(index)
    size = (96, 168) if options.tiny else (480, 854)
    image = F.interpolate(image[None], size, mode='bilinear')[0]
    ids = F.interpolate(ids[None, None].float(), size)[0, 0].long()
    return image.to(options.device), ids.to(options.device)


def batches(options: Namespace, count: int, copies: int) -> list[Batch]:
    "For inner steps; at most five different ones."
    image, ids = scene(options)
    config = FineTuneConfig(min(count, 5), copies)
    made = list(augmented_batches(image, ids, config, ('gpu',)))
    return [made[t % len(made)] for t in range(count)]


def finished(options: Namespace) -> float:
    "The time when the GPU has done what it was told."
    if on_gpu(options):
        torch.cuda.synchronize()
    return perf_counter()


def measured(
    options: Namespace,
    action: Callable[[], object],
    times: int = 1,  # after one that warms up, where there are several
) -> tuple[float, float | None, object]:  # median seconds; most GiB allocated; the last result
    "Time and memory of something."
    if on_gpu(options):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds, result = [], None
    for _ in range(times + (times > 1)):
        start = finished(options)
        result = action()
        seconds.append(finished(options) - start)
    peak = torch.cuda.max_memory_allocated() / GIB if on_gpu(options) else None
    return median(seconds[times > 1 :]), peak, result


@contextmanager
def precision(options: Namespace, name: str, *models: MaskRCNN):  # 'float32', 'tf32', 'bf16'
    "How products are computed inside: of our models, and of others."
    for model in models:
        model.precision = name
    short = name == 'tf32'
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = short
    with torch.autocast(options.device.type, torch.bfloat16, name == 'bf16', cache_enabled=False):
        yield


@contextmanager
def deterministic(on: bool):
    torch.use_deterministic_algorithms(on, warn_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield
    torch.use_deterministic_algorithms(False)


class Frames(list):
    "Frames in memory, as `follow` takes a clip."


def flat(tensors: Tensors) -> Tensor:
    "All numbers in one vector."
    return torch.cat([t.flatten() for t in tensors.values()]).double()


def cosine(a: Tensors, b: Tensors) -> float:
    return F.cosine_similarity(flat(a), flat(b), 0).item()


def busy_share(options: Namespace, action: Callable[[], object]) -> float | None:
    "The share of time in which the GPU runs a kernel."
    if not on_gpu(options):
        return None
    from torch.profiler import ProfilerActivity, profile

    action()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        start = finished(options)
        for _ in range(3):
            action()
        seconds = finished(options) - start
    return sum(event.self_device_time_total for event in found.key_averages()) / 1e6 / seconds


# ---- the parts


@part
def waits(options: Namespace) -> list[dict]:
    "How often the host waits for the GPU, by PyTorch's own warnings; 0 on the CPU."
    model, rows = make_model(options), []
    weights, (batch,) = initial_weights(model), batches(options, 1, 3)
    config = replace(PAPER_SEGMENT, fine_tune=FineTuneConfig(1, 1))
    image, ids = scene(options)
    following = follow(Tracker(model, 1e-5, config), Frames([image.cpu()] * 4), {0: ids.cpu()})
    actions = {
        'inner step': partial(inner_step, model, weights, batch, 1e-6, None, generator('waits')),
        'frame': partial(next, following),
    }
    for name, action in actions.items():
        action()
        action()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            if on_gpu(options):
                torch.cuda.set_sync_debug_mode('warn')
            action()
            if on_gpu(options):
                torch.cuda.set_sync_debug_mode('default')
        count = sum('synchroniz' in str(w.message) for w in caught)
        rows.append(dict(what=name, waits=count))
    return rows


@part
def iteration(options: Namespace) -> list[dict]:
    "A fine-tuning iteration against torchvision's Mask R-CNN at equal work."
    config, rows = configuration('small' if options.tiny else 'full'), []
    task, device, rng = make_scene(), options.device, torch.Generator
    torch.manual_seed(0)
    ours, peer = build(config).to(device), peer_model(config, task.boxes[0].to(device)).to(device)
    image, boxes = task.images[0].to(device), task.boxes[0].to(device)
    target = {name: t.to(device) for name, t in task.targets[0].items()}
    kinds = [('float32', False, False)]
    if not options.tiny:
        kinds += [('float32', True, False), ('float32', False, True), ('tf32', False, False)]
        kinds += [('tf32', True, False), ('bf16', False, False), ('bf16', True, False)]
    for copies in (1,) if options.tiny else (1, 3):
        batch = [image] * copies, [target] * copies, [boxes] * copies
        for name, last, fixed in kinds:
            form = torch.channels_last if last else torch.contiguous_format
            weights = initial_weights(ours.to(memory_format=form))
            peer.to(memory_format=form).load_state_dict(weights)
            optimizer = torch.optim.SGD(peer.parameters(), 1e-6)

            def our_step(weights=weights, batch=batch):
                return inner_step(ours, weights, batch, 1e-6, random=rng().manual_seed(SEED))

            def peer_step(optimizer=optimizer, batch=batch):
                losses = peer(*batch[:2])
                sum(losses.values()).backward()
                optimizer.step()
                optimizer.zero_grad()
                return {key: loss.item() for key, loss in losses.items()}

            with precision(options, name, ours), deterministic(fixed):
                times = 1 if options.tiny else 7
                our_time, our_peak, losses = measured(options, our_step, times)
                peer_time, peer_peak, theirs = measured(options, peer_step, times)
                busy = busy_share(options, our_step)
            row = dict(copies=copies, precision=name, channels_last=last, deterministic=fixed)
            row |= dict(seconds=our_time, peer=peer_time, ratio=our_time / peer_time, busy=busy)
            # other samples are drawn on a GPU, from as many boxes
            row |= dict(peak=our_peak, peer_peak=peer_peak, losses=losses, peer_losses=theirs)
            rows.append(row)
    return rows


@part
def bf16(options: Namespace) -> list[dict]:
    "Does bfloat16 tell the truth? Against float32: meta-gradients, inner losses, boxes."
    model = make_model(options)
    weights, rows = initial_weights(model), []
    rates = learning_rates(weights, value=1e-4)
    image, ids = scene(options, 12)
    inner, test = batches(options, 2 if options.tiny else 5, 1), ([image], [as_target(ids)])
    found, boxes = {}, {}
    for name in 'float32', 'bf16':
        with precision(options, name, model):
            found[name] = meta_gradient(model, weights, rates, inner, test, 10.0, ('gpu',))
            with torch.no_grad():
                (seen,) = model([image])
        boxes[name] = seen['boxes'][:1]
    losses = {name: [sum(o.values()) for o in g.inner] for name, g in found.items()}
    exact, short = found['float32'], found['bf16']
    overlap = None
    if len(boxes['float32']) and len(boxes['bf16']):
        overlap = box_iou(boxes['float32'], boxes['bf16']).item()
    rows.append(
        dict(
            cosine_weights=cosine(exact.weights, short.weights),
            cosine_rates=cosine(exact.rates, short.rates),
            inner_losses=losses,
            meta_losses={name: g.loss for name, g in found.items()},
            iou_of_best_boxes=overlap,
        )
    )
    return rows


@part
def meta(options: Namespace) -> list[dict]:
    "The meta-gradient, backwards step by step and unrolled, of first and of exact order."
    model, rows = make_model(options), []
    weights = initial_weights(model)
    rates, (image, ids) = learning_rates(weights, value=1e-4), scene(options, 12)
    test = [image], [as_target(ids)]
    for steps in (2,) if options.tiny else (5, 50):
        inner = batches(options, steps, 1)
        for order in 1, 2:
            found = {}
            ways = {
                'step by step': partial(meta_gradient, order=order),
                'unrolled': partial(unrolled_meta_gradient, second_order=order == 2),
            }
            for name, way in ways.items():
                row = dict(steps=steps, order=order, way=name)
                action = partial(way, model, weights, rates, inner, test, 10.0, ('gpu',))
                try:
                    row['seconds'], row['peak'], found[name] = measured(options, action)
                except torch.OutOfMemoryError as error:
                    row['error'] = str(error).split('. ')[0]
                rows.append(row)
            if len(found) == 2:
                a, b = found.values()
                rows[-1]['cosine'] = cosine(a.weights, b.weights)
            del found
    return rows


def write_clips(options: Namespace, root: Path) -> None:
    "Two clips of the demo, enlarged, laid out as YouTube-VOS."
    size = (168, 96) if options.tiny else (1280, 720)
    objects = {'1': dict(frames=[f'{i:05d}' for i in range(20)])}
    for name in 'one', 'two':
        for kind, theirs, how in (
            ('JPEGImages', 'frames', Image.BILINEAR),
            ('Annotations', 'masks', Image.NEAREST),
        ):
            folder = root / 'YouTube-VOS/train' / kind / name
            folder.mkdir(parents=True)
            for file in sorted((DEMO / theirs).iterdir())[:20]:
                Image.open(file).resize(size, how).save(folder / file.name)
    videos = {name: dict(objects=objects) for name in ('one', 'two')}
    (root / 'YouTube-VOS/train/meta.json').write_text(json.dumps(dict(videos=videos)))


def outer_config(options: Namespace, root: Path, **changes) -> MetaConfig:
    "The preset `paper` on these clips, from random weights."
    start = root / 'start.safetensors'
    if not start.exists():
        model = make_model(options)
        save_weights(model, TINY if options.tiny else PAPER, start, half=False)
    paper = PRESETS['paper']
    tasks = replace(paper.tasks, set_weights=(('youtube-vos', 1.0),))
    if options.tiny:
        tasks, changes = replace(tasks, steps=2), dict(batch=2) | changes
    return replace(paper, start=str(start), tasks=tasks, steps=10**6, **changes)


@part
def outer(options: Namespace) -> list[dict]:
    "An outer step of `paper` on 720p, with so many workers; and the workers alone."
    rows = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_clips(options, root)
        for workers, kind in ((0, 'float32'),) if options.tiny else (
            *((n, 'float32') for n in (0, 2, 4, 8)),
            (4, 'bf16'),
        ):
            config = outer_config(options, root, workers=workers, precision=kind)
            run, processes = MetaRun(config, options.device), Processes()
            stream = iter(task_stream(config, root, processes, 0))
            spent, waited = [], []
            for _ in range(2 if options.tiny else 6):
                start = finished(options)
                tasks = next(stream)
                waited.append(perf_counter() - start)
                sums = outer_sums(run, tasks)
                torch._foreach_div_(sums[:-1], sums[-1][0].item())
                run.update(sums[:-1])
                spent.append(finished(options) - start)
            del stream
            start, count = perf_counter(), 2 if options.tiny else 8
            stream = iter(task_stream(config, root, processes, 0))
            tasks = [next(stream) for _ in range(count)]
            alone = (perf_counter() - start) / count / config.batch
            del stream
            row = dict(workers=workers, precision=kind, tasks=config.batch)
            row |= dict(seconds=median(spent[1:]), waiting=median(waited[1:]), feeding=alone)
            rows.append(row)
    return rows


@part
def caps(options: Namespace) -> list[dict]:
    "Fine-tuning where less memory may be used: does it fit, and what is the most that it takes?"
    rows = []
    total = torch.cuda.get_device_properties(0).total_memory if on_gpu(options) else None
    for cap in (None,) if total is None else (8, 12, 16):
        for copies, accumulate in (
            ((1, False), (2, True)) if options.tiny else ((3, False), (3, True), (1, False))
        ):
            if cap:
                torch.cuda.set_per_process_memory_fraction(min(cap * GIB / total, 1.0))
            model = make_model(options)
            model.accumulate = accumulate
            weights, (batch,) = initial_weights(model), batches(options, 1, copies)
            row = dict(cap=cap, copies=copies, accumulate=accumulate)
            try:
                action = partial(inner_step, model, weights, batch, 1e-6, None, generator('caps'))
                row['seconds'], row['peak'], _ = measured(options, action, 2)
            except torch.OutOfMemoryError as error:
                row['error'] = str(error).split('. ')[0]
            rows.append(row)
            del model, weights, batch
    if total:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return rows


@part
def following(options: Namespace) -> list[dict]:
    "Two variants of the paper on one object in 69 frames of 480p: frames a second."
    model, rows = make_model(options), []
    count = 4 if options.tiny else 69
    frames = [scene(options, i % 40)[0].cpu() for i in range(count)]
    given = {0: scene(options)[1].cpu()}
    names = ('e-osvos-2',) if options.tiny else PAPER_SPEED
    if not options.tiny and not options.weights:  # or nothing would be found, nor a mask drawn
        model.roi_heads.config = replace(model.roi_heads.config, score=0.01)
    for name in names:
        base = SMALL_SEGMENT if options.tiny else PAPER_SEGMENT
        tracker = Tracker(model, 1e-5, variant(name, base))
        action = partial(list, follow(tracker, Frames(frames), given))
        seconds, peak, results = measured(options, action)
        row = dict(variant=name, frames=count, seconds=seconds, peak=peak)
        row |= dict(fps=count / seconds, paper=PAPER_SPEED.get(name), found=len(results))
        rows.append(row)
    return rows


@part
def processes(options: Namespace) -> list[dict]:
    "Two processes on one GPU give the sums of one, up to rounding."
    with tempfile.TemporaryDirectory() as name:
        root, found = Path(name), []
        write_clips(options, root)
        outer_config(options, root)
        command = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node']
        write_sums(options, root)
        flags = ['--device', str(options.device), *['--tiny'] * options.tiny]
        script = [__file__, '--sums', str(root), *flags]
        subprocess.run([sys.executable, *command, '2', *script], check=True)
        for count in 1, 2:
            found.append(torch.load(root / f'sums-{count}.pt'))
    one, two = (torch.cat([t.flatten() for t in sums[:-1]]).double() for sums in found)
    row = dict(difference=((one - two).norm() / one.norm()).item(), tasks=found[0][-1][0].item())
    return [row | dict(losses=[sums[-1].tolist() for sums in found])]


def write_sums(options: Namespace, root: Path) -> None:
    "What each process of `processes` does: its part of an outer step; the first writes the sums."
    with Processes() as group:
        config = outer_config(options, root, workers=0)
        run = MetaRun(config, options.device)
        # over the CPU: NCCL wants a GPU for each process
        sums = [t.cpu() for t in outer_sums(run, next(iter(task_stream(config, root, group, 0))))]
        group.sum(sums)
        if group.rank == 0:
            torch.save(sums, root / f'sums-{group.world}.pt')


# ---- running


def run_parts(options: Namespace) -> None:
    "Each part, and a file of what it said."
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name() if on_gpu(options) else 'CPU'
    begin = perf_counter()
    for name in options.parts or PARTS:
        about = dict(device=device, torch=torch.__version__, tiny=options.tiny)
        start = perf_counter()
        try:
            about['rows'] = PARTS[name](options)
        except Exception as error:  # the others shall still be measured
            about['error'] = f'{type(error).__name__}: {error}'
        about['minutes'] = round((perf_counter() - start) / 60, 2)
        (options.out / f'{name}.json').write_text(json.dumps(about, indent=1) + '\n')
        said = about.get('error', f'{len(about.get("rows", []))} rows')
        minutes = (perf_counter() - begin) / 60
        print(f'{name}: {said}; {minutes:.1f} minutes so far', flush=True)


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('parts', nargs='*', help=f'some of {", ".join(PARTS)}; all if none')
    parser.add_argument('--tiny', action='store_true', help='small model and pictures')
    parser.add_argument('--device', type=torch.device, default=torch.device('cuda'))
    parser.add_argument('--weights', help='of the full-size model; random if not given')
    parser.add_argument('--out', type=Path, default=Path(__file__).parent / 'gpu')
    parser.add_argument('--sums', type=Path, help='used by `processes` itself')
    options = parser.parse_args()
    strange = set(options.parts) - set(PARTS)
    if strange:
        parser.error(f'expected names of {", ".join(PARTS)}, got {", ".join(sorted(strange))}')
    if options.sums:
        write_sums(options, options.sums)
    else:
        run_parts(options)


if __name__ == '__main__':
    main()
