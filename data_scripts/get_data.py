"""Fetch, unpack, check and split the data sets of the paper.

    python data_scripts/get_data.py davis --root data/DAVIS-2017 trainval-480p test-dev-480p
    python data_scripts/get_data.py davis --root data/DAVIS-2016 2016
    python data_scripts/get_data.py youtube-vos --root data/YouTube-VOS train.zip valid.zip
    python data_scripts/get_data.py check data/DAVIS-2017
    python data_scripts/get_data.py split data/YouTube-VOS

Downloads need pooch (`pip install -e '.[data]'`). Nothing is ever written outside `--root`, and
nothing that stands there already is fetched again. `data_scripts/README.md` tells more.
"""

import argparse
import json
import re
import shutil
import stat
import sys
import zipfile
import zlib
from collections import Counter
from functools import partial
from pathlib import Path, PurePosixPath

import torch

from eosvos.core import generator, write_then_rename
from eosvos.datasets import davis, youtube_vos

ETH = 'https://data.vision.ee.ethz.ch/csergi/share/davis/'
# Each archive of DAVIS: address, and checksum, None where none is published. 2016: the MD5 of the
# official script get_davis.sh; trainval: the SHA-256 of the catalogue of TensorFlow Datasets.
DAVIS = {
    '2016': (
        'https://graphics.ethz.ch/Downloads/Data/Davis/DAVIS-data.zip',
        'md5:0cb3cf9c5617209fa3cc4794e52a2ffa',
    ),
    'trainval-480p': (
        ETH + 'DAVIS-2017-trainval-480p.zip',
        'sha256:e3d0b5b77c3d031b000a19e0e25e3e2cac65d183755601bc2cf066df1a2aa492',
    ),
    'trainval-Full-Resolution': (
        ETH + 'DAVIS-2017-trainval-Full-Resolution.zip',
        'sha256:519494b320e7a333b98188e0f44e028f379c3312a1fc1a3e8bddd64b2c9ecfaf',
    ),
    'test-dev-480p': (ETH + 'DAVIS-2017-test-dev-480p.zip', None),
    'test-dev-Full-Resolution': (ETH + 'DAVIS-2017-test-dev-Full-Resolution.zip', None),
}
# Published numbers of sequences. YouTube-VOS: of the 2018 and the 2019 version.
COUNTS = {
    '2016/train': (30,),
    '2016/val': (20,),
    '2017/train': (60,),
    '2017/val': (30,),
    '2017/test-dev': (30,),
    'train': (3471,),
    'valid': (474, 507),
    'test': (508, 541),
}
REGISTER = '''YouTube-VOS is given to those who register and accept its terms; no script can.
1. Go to https://youtube-vos.org/dataset/vos and follow the link to the competition of the version
   that you want (2018 or 2019).
2. Register there, and download train.zip, valid.zip and test.zip; for all frames also
   valid_all_frames and test_all_frames.
3. Call this again with the names of the archives.'''


def download(
    url: str,
    path: Path,  # where the file shall stand
    expected: str | None = None,  # checksum, such as 'md5:0cb3...', where one is published
) -> None:
    "Fetch a file that is not there yet. ValueError where it does not arrive whole; none is lost."
    try:
        import pooch
    except ImportError as error:
        raise ValueError("downloads need pooch: pip install -e '.[data]'") from error
    try:
        if not path.exists():
            pooch.retrieve(url, expected, path.name, path.parent, progressbar=True)
        elif not pooch.hashes.hash_matches(path, expected):
            got = pooch.file_hash(path, pooch.hashes.hash_algorithm(expected))
            raise ValueError(f'expected {expected}, got {got}; move it away to fetch it anew')
    except (OSError, ValueError) as error:  # those of requests are OSErrors
        raise ValueError(f'{path}: cannot be fetched from {url}: {error}') from error


def member_path(info: zipfile.ZipInfo, strip: str) -> Path:
    "Where a member goes, below the folder. ValueError where that is elsewhere, or it is a link."
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ValueError(f'member {info.filename!r} is a link or a device')
    name = info.orig_filename
    if (
        re.search(r'[\\\x00-\x1f]', name)
        or re.match('/|[A-Za-z]:', name)
        or '..' in name.split('/')
    ):
        raise ValueError(f'member {name!r} would leave the folder')
    return Path(PurePosixPath(name.removeprefix(strip)))


def unpack(archive: Path, folder: Path) -> int:  # number of files that were written
    """Unpack a zip into a folder, without a single top folder DAVIS; equal files are left alone.

    ValueError where it is damaged, or would write outside; all names are looked at before anything
    is written.
    """
    try:
        with zipfile.ZipFile(archive) as members:
            infos = members.infolist()
            strip = 'DAVIS/' if all(info.filename.startswith('DAVIS/') for info in infos) else ''
            places = [(info, folder / member_path(info, strip)) for info in infos]
            folder.mkdir(parents=True, exist_ok=True)
            need, free = sum(info.file_size for info in infos), shutil.disk_usage(folder).free
            if need > free:
                raise ValueError(f'it needs {need} bytes, and {folder} has {free}')
            return sum(
                unpack_member(members, info, place, folder)
                for info, place in places
                if not info.is_dir()
            )
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        OSError,
        ValueError,
    ) as error:
        raise ValueError(f'{archive}: cannot be unpacked: {error}') from error


def unpack_member(
    members: zipfile.ZipFile, info: zipfile.ZipInfo, place: Path, folder: Path
) -> bool:  # whether it was written
    "Write one file, complete or not at all. ValueError where a link leads out of the folder."
    if not place.parent.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f'{place.parent} leads out of {folder}')
    there = place.is_file() and not place.is_symlink() and place.stat().st_size == info.file_size
    if there and zlib.crc32(place.read_bytes()) == info.CRC:
        return False
    place.parent.mkdir(parents=True, exist_ok=True)
    with (
        members.open(info) as source,
        write_then_rename(place) as temporary,
        open(temporary, 'wb') as target,
    ):
        shutil.copyfileobj(source, target)
    return True


def splits(root: Path) -> dict:  # (split, resolution) -> a function that loads it
    "The splits of which a folder holds something. ValueError where it is no known data set."
    found = {}
    for folder in sorted((root / 'JPEGImages').glob('*')):
        there = {place.name for place in folder.iterdir()}
        for year, places in ((2016, ['2016', folder.name]), (2017, ['2017'])):
            for split in ('train', 'val', 'test-dev'):
                lists = [root / 'ImageSets' / place / f'{split}.txt' for place in places]
                if any(
                    there & set(re.findall(r'[^/\s]+', file.read_text('utf-8-sig', 'replace')))
                    for file in lists
                    if file.is_file()
                ):
                    found[f'{year}/{split}', folder.name] = partial(
                        davis, root, split, folder.name, year
                    )
    for folder in sorted(root.glob('*/JPEGImages')):
        found[folder.parent.name, ''] = partial(youtube_vos, root, folder.parent.name)
    if not found:
        raise ValueError(
            f'{root}: expected JPEGImages and ImageSets of DAVIS, '
            'or train, valid, ... of YouTube-VOS; found neither'
        )
    return found


def damaged(sequences: list) -> list[str]:
    "What is wrong with the pictures of these sequences, after decoding every one."
    wrong = []
    for sequence in sequences:
        for i, mask in enumerate(sequence.masks):
            try:
                sequence.image(i)
                if mask:
                    sequence.mask(i)
            except ValueError as error:
                wrong.append(str(error))
    return wrong


def check(root: Path, read: bool = False) -> bool:  # whether nothing is missing
    "Say of each split what it holds and what is missing; with `read` decode every picture too."
    good = True
    for (split, resolution), load in splits(root).items():
        wrong, title = [], ' '.join(filter(None, (split, resolution)))
        try:
            sequences = load()
            counts = COUNTS.get(split.removesuffix('_all_frames'), (len(sequences),))
            if len(sequences) not in counts:
                wrong.append(f'expected {" or ".join(map(str, counts))} sequences')
            if read:
                wrong += damaged(sequences)
            frames = sum(len(s.frames) for s in sequences)
            print(f'{title}: {len(sequences)} sequences, {frames} frames')
        except ValueError as error:
            wrong += str(error).splitlines()
            print(f'{title}: not complete')
        for line in wrong:
            print(f'  {line}')
        good = good and not wrong
    return good


def hold_out(
    categories: dict[str, set[str]],  # of each sequence
    count: int,  # how many sequences to hold out
    seed: int,
    name: str,  # of the draw
) -> list[str]:
    "Sequences drawn from each category in turn, the most frequent first. ValueError if too few."
    left, frequent = (
        dict(sorted(categories.items())),
        Counter(category for some in categories.values() for category in some),
    )
    order = sorted(frequent, key=lambda category: (-frequent[category], category))
    random, drawn = generator(seed, 'YouTube-VOS', name), []
    while len(drawn) < count:
        before = len(drawn)
        for category in order:
            having = [key for key, some in left.items() if category in some]
            if len(drawn) == count or not having:
                continue
            drawn.append(having[int(torch.randint(len(having), (), generator=random))])
            del left[drawn[-1]]
        if len(drawn) == before:
            raise ValueError(f'expected at most {len(drawn)} sequences to hold out, got {count}')
    return sorted(drawn)


def split(root: Path, seed: int = 123, count: int = 100) -> Path:  # the folder with the three lists
    "Split the training set of YouTube-VOS into `val.txt`, `train-val.txt` and the rest."
    sequences = youtube_vos(root, 'train')
    videos = json.loads((root / 'train' / 'meta.json').read_text('utf-8-sig'))['videos']
    left = {}
    for name in (s.name for s in sequences):
        entries = videos[name]['objects'].values()
        left[name] = {entry['category'] for entry in entries if entry['frames']}
    folder, lists = root / 'ImageSets' / f'seed-{seed}', {}
    for name in ('val', 'train-val'):
        lists[name] = hold_out(left, count, seed, name)
        for key in lists[name]:
            del left[key]
    lists['train'] = sorted(left)
    folder.mkdir(parents=True, exist_ok=True)
    for name, sequences in lists.items():
        with write_then_rename(folder / f'{name}.txt') as temporary:
            temporary.write_text(''.join(f'{key}\n' for key in sequences))
    return folder


def main(arguments: list[str] | None = None) -> bool:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    one = commands.add_parser('davis', help='download archives of DAVIS and unpack them')
    one.add_argument('archives', nargs='+', choices=DAVIS, metavar='ARCHIVE', help=', '.join(DAVIS))
    one.add_argument(
        '--root',
        type=Path,
        required=True,
        help='folder that gets JPEGImages, Annotations, ImageSets; one for 2016, another for 2017',
    )
    one = commands.add_parser(
        'youtube-vos', help='unpack archives of YouTube-VOS, or say where to get them'
    )
    one.add_argument('archives', nargs='*', type=Path, metavar='ZIP')
    one.add_argument('--root', type=Path, required=True, help='folder that gets train, valid, ...')
    one = commands.add_parser('check', help='say precisely what a folder holds and what is missing')
    one.add_argument('root', type=Path)
    one.add_argument(
        '--read', action='store_true', help='decode every picture too, which takes minutes'
    )
    one = commands.add_parser('split', help='hold out sequences of the training set of YouTube-VOS')
    one.add_argument('root', type=Path)
    one.add_argument('--seed', type=int, default=123)
    one.add_argument('--count', type=int, default=100)
    options = parser.parse_args(arguments)
    if options.command == 'davis':
        if '2016' in options.archives and len(options.archives) > 1:
            raise ValueError(
                '2016 and 2017 hold different masks under the same names: '
                'call once for each, with a --root of its own'
            )
        for name in options.archives:
            url, expected = DAVIS[name]
            archive = options.root / url.rsplit('/', 1)[1]
            download(url, archive, expected)
            print(f'{archive}: {unpack(archive, options.root)} files written')
    if options.command == 'youtube-vos':
        if not options.archives:
            print(REGISTER)
        for archive in options.archives:
            print(f'{archive}: {unpack(archive, options.root)} files written')
        if not options.archives:
            return False
    if options.command == 'split':
        print(split(options.root, options.seed, options.count))
        return True
    return check(options.root, getattr(options, 'read', False))


if __name__ == '__main__':
    try:
        sys.exit(0 if main() else 1)
    except ValueError as error:
        sys.exit(f'{error}')
