"""Make the instance test: two objects with exact masks in each clip.

    python data_scripts/make_instance_test.py ../data --out runs/instances

So finding what stands out is not enough. The objects of two DAVIS 2016 training sequences that no
training sees (`eosvos.datasets.HELD_OUT`) are put into one clip: the second, cut out by its mask,
moves through the frames of the first, and hides part of it where they meet. `instance_test.csv`
beside this file lists the clips; it was drawn with `--choose`, once, before anything was measured
on it. bmx-trees with its two true objects comes last. The result has the layout of DAVIS 2017, with
the split `val`; the same call writes the same masks, and the same pictures with the same version of
Pillow.

Settings are not chosen on these clips but on others of the same sequences, at other places:

    python data_scripts/make_instance_test.py ../data --list runs/composed.csv --choose --seed 77
    python data_scripts/make_instance_test.py ../data --list runs/composed.csv --out runs/composed
"""

import argparse
import csv
from itertools import combinations
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from eosvos.core import generator
from eosvos.datasets import HELD_OUT, Sequence, davis
from eosvos.fine_tuning import uniform, warp
from eosvos.video import write_mask

LIST = Path(__file__).with_name('instance_test.csv')
COLUMNS = (
    'name',
    'base',
    'guest',
    'frames',
    'scale',
    'flip',
    'right',
    'down',
)  # the guest is scaled about the centre, then moved (pixels)
LONGEST = 40  # frames of a clip
REAL = 'bmx-trees'


def compose(
    base: Sequence, guest: Sequence, i: int, scale: float, flip: bool, right: float, down: float
) -> tuple[Tensor, Tensor]:
    "Frame `i` with the guest over it: picture (3, H, W) in [0, 1]; ids (H, W), 2 is the guest."
    image, ids = base.image(i), (base.mask(i) > 0).to(torch.uint8)
    other, cut = guest.image(i), (guest.mask(i) > 0).float()[None]
    size, place = tuple(ids.shape), dict(zoom=scale, flip=flip, shift=(right, down))
    other, share = (
        warp(other, size, **place),
        warp(cut, size, **place),
    )  # (3, H, W), (1, H, W): soft at the border
    return image + share * (other - image), ids.masked_fill(share[0] >= 0.5, 2)


def clip(sets: dict[str, Sequence], row: dict) -> list[tuple[Tensor, Tensor]]:
    "All frames of a clip of the list."
    numbers = (float(row['scale']), row['flip'] == '1', float(row['right']), float(row['down']))
    return [
        compose(sets[row['base']], sets[row['guest']], i, *numbers)
        for i in range(int(row['frames']))
    ]


def suits(frames: list[tuple[Tensor, Tensor]], whole: list[int]) -> bool:
    "Whether both objects are large at first, and enough of both stays in sight."
    seen = torch.tensor(
        [[(ids == k).sum() for k in (1, 2)] for _, ids in frames], dtype=torch.float64
    )  # (frames, 2)
    left = seen[:, 0] / torch.tensor(whole).clamp(min=1)
    return bool(
        seen[0].min() >= 600
        and left[0] >= 0.7
        and left.mean() >= 0.5
        and left.mean() <= 0.98
        and seen[:, 1].mean() >= 600
    )


def choose(sets: dict[str, Sequence], seed: int = 1) -> list[dict]:
    "A clip for each pair of sequences, places drawn until both objects can be seen well enough."
    rows = []
    for pair in combinations(sorted(sets), 2):
        random = generator(seed, 'instance', *pair)
        for _ in range(500):
            base, guest = pair[:: 1 if uniform(random, 0, 1) < 0.5 else -1]
            count = min(len(sets[base].frames), len(sets[guest].frames), LONGEST)
            place = (
                uniform(random, 0.5, 1.2),
                uniform(random, 0, 1) < 0.5,
                uniform(random, -140, 140),
                uniform(random, -70, 70),
            )
            row = dict(
                zip(
                    COLUMNS,
                    [
                        f'{base}+{guest}',
                        base,
                        guest,
                        count,
                        f'{place[0]:.3f}',
                        int(place[1]),
                        round(place[2]),
                        round(place[3]),
                    ],
                    strict=True,
                )
            )
            whole = [int((sets[base].mask(i) > 0).sum()) for i in range(count)]
            if suits(clip(sets, {k: str(v) for k, v in row.items()}), whole):
                break
        else:
            raise ValueError(f'{pair}: no place found in 500 draws')
        print(row, flush=True)
        rows.append(row)
    return rows


def make(data: Path, out: Path, listed: Path | None = None) -> None:
    "Write all clips of a list as a DAVIS 2017 tree; the instance test ends with bmx-trees."
    sets, rows = (
        {s.name: s for s in davis(data / 'DAVIS', 'train', '240p')},
        list(csv.DictReader((listed or LIST).open())),
    )
    for row in rows:
        images, masks = (
            out / kind / '480p' / row['name'] for kind in ('JPEGImages', 'Annotations')
        )
        for folder in images, masks:
            folder.mkdir(parents=True, exist_ok=True)
        for i, (image, ids) in enumerate(clip(sets, row)):
            Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save(
                images / f'{i:05d}.jpg', quality=95
            )
            write_mask(masks / f'{i:05d}.png', ids)
        print(f'{row["name"]}: {i + 1} frames', flush=True)
    listed_names = [row['name'] for row in rows]
    if not listed:
        listed_names.append(REAL)
        for kind, year in ('JPEGImages', ''), ('Annotations', '-2017'):
            link = out / kind / '480p' / REAL
            if not link.is_symlink():
                link.symlink_to((data / f'DAVIS/{kind}{year}/480p' / REAL).resolve())
    names = out / 'ImageSets/2017/val.txt'
    names.parent.mkdir(parents=True, exist_ok=True)
    names.write_text(''.join(f'{name}\n' for name in listed_names))


def main() -> None:
    parser = argparse.ArgumentParser(description='Make the instance test.')
    parser.add_argument('data', type=Path, help='holds DAVIS')
    parser.add_argument(
        '--out', type=Path, default=Path('runs/instances'), help='folder that gets the tree'
    )
    parser.add_argument('--list', type=Path, help='another table of clips')
    parser.add_argument('--choose', action='store_true', help='draw the list anew instead')
    parser.add_argument('--seed', type=int, default=1, help='of the draws')
    arguments = parser.parse_args()
    if not arguments.choose:
        return make(arguments.data, arguments.out, arguments.list)
    rows = choose(
        {s.name: s for s in davis(arguments.data / 'DAVIS', 'train', '240p') if s.name in HELD_OUT},
        arguments.seed,
    )
    with (arguments.list or LIST).open('w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


if __name__ == '__main__':
    main()
