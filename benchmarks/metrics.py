"""J and F against the package vos-benchmark and the method of the DAVIS toolkit, on the CPU.

    [EOSVOS_DATA=...] .venv/bin/python benchmarks/metrics.py

Lines `ratio NAME VALUE` give ours / peer, medians of alternating runs. `thread-...`: one thread,
masks in memory; the values of all three are asserted to be equal. `folder-...`: whole folders in
two processes each, reading the files and starting the processes included; the means of every
object are asserted to be equal. The masks are published results on DAVIS where EOSVOS_DATA holds
them, else masks of the demo clip and the same masks late and displaced.
"""

import os
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import cv2
import numpy as np
import torch
from skimage.morphology import disk
from vos_benchmark.benchmark import benchmark
from vos_benchmark.evaluator import Evaluator

from eosvos.core import DEMO
from eosvos.metrics import evaluate, score_frame
from eosvos.video import read_mask, write_mask

FRAMES, REPEATS = 24, 7  # frames a sequence; runs of each side, after one that warms up

Sequences = dict[
    str, list[tuple[np.ndarray, np.ndarray]]
]  # name -> (H, W) uint8 id maps, predicted and true


def davis_sequences(root: Path) -> Sequences:
    "Published masks of another method, STM, on ten sequences of DAVIS 2016 and one of DAVIS 2017."
    folders = {
        path.name: (path, root / 'DAVIS/Annotations/480p' / path.name)
        for path in sorted((root / 'reference/stm-davis2016').iterdir())
        if path.is_dir()
    }
    folders['bmx-trees-2017'] = (
        root / 'reference/stm-davis2017/bmx-trees',
        root / 'DAVIS/Annotations-2017/480p/bmx-trees',
    )
    sequences = {}
    for name, (predicted, true) in folders.items():
        files = sorted(true.glob('*.png'))
        chosen = [
            files[k] for k in np.linspace(0, len(files) - 1, FRAMES).round().astype(int)
        ]  # over the whole video
        sequences[name] = [(ids(predicted / file.name), ids(file)) for file in chosen]
    return sequences


def demo_sequences() -> Sequences:
    "Masks of the demo clip, and as predictions the same, late and displaced."
    masks = [ids(file) for file in sorted((DEMO / 'masks').glob('*.png'))]
    return {
        f'late-{late}': [
            (np.roll(masks[max(k - late, 0)], 3 * late, (0, 1)), mask)
            for k, mask in enumerate(masks[:FRAMES])
        ]
        for late in range(8)
    }


def ids(path: Path) -> np.ndarray:
    return read_mask(path).numpy().astype(np.uint8)


def ours(pairs: list) -> list[dict]:
    return [score_frame(*pair) for pair in pairs]


def vos_benchmark(pairs: list) -> list[dict]:
    "The peer's evaluator, frame by frame."
    frames = []
    for pair in pairs:
        evaluator = Evaluator()
        evaluator.feed_frame(*pair)
        frames.append(
            {
                k: (evaluator.object_iou[k][0], evaluator.boundary_f[k][0])
                for k in sorted(evaluator.object_iou)
            }
        )
    return frames


def contour(mask: np.ndarray) -> np.ndarray:
    """The toolkit's boundary map: a pixel differs from its right, lower or lower-right neighbour.

    The border repeats itself."""
    around = np.pad(mask, ((0, 1), (0, 1)), mode='edge')
    return (mask != around[:-1, 1:]) | (mask != around[1:, :-1]) | (mask != around[1:, 1:])


def davis_method(pairs: list) -> list[dict]:
    """What the DAVIS toolkit computes, on whole pictures.

    Boundary maps are dilated by a disk of 0.8 % of the diagonal."""
    frames = []
    for pred, true in pairs:
        footprint = disk(int(np.ceil(0.008 * np.linalg.norm(true.shape))))
        frames.append({})
        for k in np.union1d(pred, true)[1:].tolist():
            p, t = pred == k, true == k
            a, b = contour(p), contour(t)
            near_a, near_b = (cv2.dilate(edge.astype(np.uint8), footprint) > 0 for edge in (a, b))
            precision = (a & near_b).sum() / a.sum() if a.any() else 1
            recall = (b & near_a).sum() / b.sum() if b.any() else 1
            f = 2 * precision * recall / (precision + recall) if precision + recall else 0
            frames[-1][k] = (p & t).sum() / (p | t).sum(), f
    return frames


def ratio(name: str, mine, peer, *arguments) -> None:
    "Alternate the two, and print the medians and their ratio."
    seconds = []
    for _ in range(REPEATS + 1):
        start = perf_counter()
        mine(*arguments)
        middle = perf_counter()
        peer(*arguments)
        seconds.append((middle - start, perf_counter() - middle))
    ours, theirs = (median(column) for column in zip(*seconds[1:]))
    print(f'{name}: ours {ours:.2f} s, peer {theirs:.2f} s')
    print(f'ratio {name} {ours / theirs:.3f}', flush=True)


def write(sequences: Sequences, root: Path) -> None:
    for name, pairs in sequences.items():
        for side in (0, 1):
            (root / str(side) / name).mkdir(parents=True)
        for k, pair in enumerate(pairs):
            for side, mask in enumerate(pair):
                write_mask(root / str(side) / name / f'{k:05d}.png', torch.from_numpy(mask))


def our_folders(root: Path):
    return evaluate(root / '0', root / '1', workers=2)


def their_folders(root: Path):
    return benchmark([str(root / '1')], [str(root / '0')], num_processes=2, verbose=False)


def check_folders(root: Path) -> None:
    "The means of each object, in percent, are the same."
    sequences = their_folders(root)[3][0]
    for scores in our_folders(root).objects:
        for values, theirs in zip((scores.j, scores.f), sequences[scores.sequence]):
            assert abs(100 * values.mean() - theirs[scores.object_id]) < 1e-9


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    data = os.environ.get('EOSVOS_DATA')
    sequences = davis_sequences(Path(data)) if data else demo_sequences()
    pairs = [pair for listed in sequences.values() for pair in listed[1:-1:2]]
    size = ' x '.join(map(str, pairs[0][0].shape))
    source = 'DAVIS, masks of STM' if data else 'demo clip'
    print(f'{source}: {len(sequences)} sequences of {FRAMES} frames, {size}')
    print(f'{len(pairs)} frames in memory')
    mine, peer, official = ours(pairs), vos_benchmark(pairs), davis_method(pairs)
    assert mine == peer == official, 'the three disagree'
    print(f'{sum(map(len, mine))} J and F are equal to the last bit')
    ratio('thread-vos-benchmark', ours, vos_benchmark, pairs)
    ratio('thread-davis-method', ours, davis_method, pairs)
    with tempfile.TemporaryDirectory() as folder:
        write(sequences, Path(folder))
        check_folders(Path(folder))
        ratio('folder-vos-benchmark', our_folders, their_folders, Path(folder))


if __name__ == '__main__':
    main()
