"""Lay out the data that the small model is trained and measured on, from the public archives.

    python data_scripts/lay_out.py davis --davis-2016 data/DAVIS-2016 \\
        --davis-2017 data/DAVIS-2017 --out data/study
    python data_scripts/lay_out.py stills --images ECSSD/images \\
        --masks ECSSD/ground_truth_mask --out data/study/images/ecssd

`davis` reads the two trees that `get_data.py` unpacks and writes `DAVIS` and `DAVIS-2017`: frames
to train on with 240 rows, and links to what is measured at 480. Calls of `stills` add one set each.
What is there already is left alone, so an interrupted call goes on when repeated.
`data_scripts/README.md` tells more.
"""

import argparse
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from eosvos.core import as_value_error, write_then_rename
from eosvos.datasets import DAVIS_VAL, Sequence, davis
from eosvos.video import first_masks, open_clip, pictures, read_image, write_mask

VAL10 = """blackswan bmx-trees breakdance camel car-roundabout dance-twirl drift-chicane goat
    horsejump-high soapbox""".split()
APART = 'walking snowboard tennis surf'.split()  # of 2017 train, whose masks tell objects apart
FIRST = 'bmx-trees horsejump-high soapbox'.split()  # of 2017 val, whose first masks tests read
ROWS, LONGEST = 240, 320  # pixels: height of a DAVIS frame, longer side of a still picture


def shrink(image: Tensor, ids: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    "An antialiased picture, and ids of which each pixel takes the one with the largest share."
    size = [max(1, round(side * scale)) for side in ids.shape]
    small = interpolate(image[None], size, mode='bilinear', antialias=True)[0]
    kinds = ids.unique()
    shares = interpolate((ids == kinds[:, None, None]).float()[None], size, mode='area')[0]
    return small, kinds[shares.argmax(0)]


def lay(
    images: Path,  # folder that gets NAME.jpg
    masks: Path,  # folder that gets NAME.png
    readers: dict[str, Callable[[], tuple[Tensor, Tensor]]],  # name -> what reads image and ids
    factor: Callable[[int, int], float],  # (H, W) -> scale, cut at 1
) -> None:
    "Write the smaller pictures and masks that are not there yet. ValueError names what is wrong."
    written = 0
    for folder in images, masks:
        folder.mkdir(parents=True, exist_ok=True)
    for done, (name, read) in enumerate(readers.items(), 1):
        picture, mask = images / f'{name}.jpg', masks / f'{name}.png'
        if not (picture.exists() and mask.exists()):
            image, ids = read()
            image, ids = shrink(image, ids, min(1, factor(*ids.shape)))
            write_mask(mask, ids)
            pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
            with write_then_rename(picture) as temporary:
                Image.fromarray(pixels).save(temporary, quality=95)
            written += 1
        if done % 100 == 0 or done == len(readers):
            print(f'{images}: {done} of {len(readers)}, {written} written now', flush=True)


def read_frame(sequence: Sequence, i: int) -> tuple[Tensor, Tensor]:  # (3, H, W), (H, W)
    "A frame and its ids. ValueError with the file's name where they do not fit or cannot be read."
    image = sequence.image(i)
    if not sequence.single:
        return image, sequence.mask(i)
    # 2016 has masks with more than one channel (bear/00077); the object is what is not black
    ids = (read_image(sequence.masks[i]).amax(0) > 0).long()
    if ids.shape != image.shape[1:]:
        raise ValueError(
            f'{sequence.masks[i]}: expected (H, W) {tuple(image.shape[1:])} as its frame has, '
            f'got {tuple(ids.shape)}'
        )
    return image, ids


def named(sequences: list[Sequence], names: list[str], root: Path) -> list[Sequence]:
    "The sequences of these names. ValueError where one is not among them."
    found = {s.name: s for s in sequences}
    if missing := [name for name in names if name not in found]:
        raise ValueError(f'{root}: its list of {len(found)} sequences lacks {", ".join(missing)}')
    return [found[name] for name in names]


def link(place: Path, target: Path) -> None:
    "A link, made anew where it led elsewhere; what is no link stays."
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink() and place.resolve() != target.resolve():
        place.unlink()
    if not place.exists():
        place.symlink_to(target.resolve())


def lay_davis(old: Path, new: Path, out: Path) -> None:
    "Write DAVIS and DAVIS-2017 from the trees of 2016 and 2017; the lists of sequences come last."
    train = davis(old, 'train', year=2016)
    val = named(davis(old, 'val', year=2016), VAL10, old)
    apart = named(davis(new, 'train'), APART, new)
    first = named(davis(new, 'val'), FIRST, new)
    for year, sequences in ('DAVIS', train), ('DAVIS-2017', apart):
        for s in sequences:
            places = (out / year / kind / '240p' / s.name for kind in ('JPEGImages', 'Annotations'))
            readers = {file.stem: partial(read_frame, s, i) for i, file in enumerate(s.frames)}
            lay(*places, readers, lambda height, _: ROWS / height)
    for s in val:
        link(out / 'DAVIS/JPEGImages/480p' / s.name, s.frames[0].parent)
        link(out / 'DAVIS/Annotations/480p' / s.name, s.masks[0].parent)
    link(out / 'DAVIS/Annotations-2017/480p' / first[0].name, first[0].masks[0].parent)
    for s in first:
        link(out / 'DAVIS/FirstFrames-2017/480p' / s.name / s.masks[0].name, s.masks[0])
    lists = {'DAVIS/ImageSets/train.txt': train, 'DAVIS/ImageSets/val10.txt': val}
    for place, sequences in (lists | {'DAVIS-2017/ImageSets/2017/train.txt': apart}).items():
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        with write_then_rename(out / place) as temporary:
            temporary.write_text(''.join(f'{s.name}\n' for s in sequences))


def read_still(file: Path, mask: Path, binarize: int | None) -> tuple[Tensor, Tensor]:
    "A picture (3, H, W) and its ids (H, W). ValueError with the file's name where they do not fit."
    clip = open_clip(file)
    return clip[0], first_masks(mask, clip, binarize=binarize)[0]


def lay_stills(images: Path, masks: Path, out: Path, binarize: int | None = None) -> None:
    "Write a set of still pictures without frames of DAVIS validation. ValueError if names differ."
    files = pictures(images)
    ids = {name.removesuffix('_mask'): file for name, file in pictures(masks).items()}
    if alone := sorted(files.keys() ^ ids.keys()):
        raise ValueError(
            f'{images} has {len(files)} pictures and {masks} {len(ids)} masks: expected the same '
            f'names, {len(alone)} are in one of them only, the first is {alone[0]}'
        )
    names = [name for name in files if re.sub(r'_\d+$', '', name) not in DAVIS_VAL]
    if len(names) < len(files):
        print(f'{images}: {len(files) - len(names)} frames of DAVIS validation are left out')
    readers = {name: partial(read_still, files[name], ids[name], binarize) for name in names}
    lay(out / 'images', out / 'masks', readers, lambda *size: LONGEST / max(size))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    path = dict(type=Path, required=True)
    one = commands.add_parser('davis', help='both years of DAVIS')
    one.add_argument('--davis-2016', **path, help='tree of get_data.py davis 2016')
    one.add_argument('--davis-2017', **path, help='tree of get_data.py davis trainval-480p')
    one.add_argument('--out', **path, help='folder that gets DAVIS and DAVIS-2017')
    one = commands.add_parser('stills', help='a set of still pictures with masks')
    one.add_argument('--images', **path, help='folder of pictures')
    one.add_argument('--masks', **path, help='folder of masks of the same names, or NAME_mask')
    one.add_argument('--out', **path, help='folder that gets images and masks: DATA/images/NAME')
    said = 'take what is at least so bright, of 255, for the object: for soft edges and JPEG'
    one.add_argument('--binarize', type=int, metavar='N', help=said)
    a = parser.parse_args(arguments)
    with torch.inference_mode(), as_value_error(f'{a.out} cannot be laid out'):
        if a.command == 'stills':
            return lay_stills(a.images, a.masks, a.out, a.binarize)
        lay_davis(a.davis_2016, a.davis_2017, a.out)
    script = Path(__file__).with_name('make_instance_test.py')
    print(f'next, the instance test: {sys.executable} {script} {a.out} --out runs/instances')


if __name__ == '__main__':
    try:
        main()
    except ValueError as error:
        sys.exit(f'{error}')
