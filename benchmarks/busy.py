"""Segment a few frames on a busy machine: threads that sleep while they wait, or that spin.

    .venv/bin/python benchmarks/busy.py    # fifteen frames, a busy process for each core

Prints `ratio busy-sleeping-spinning VALUE`: the time with OMP_WAIT_POLICY=passive, which
`import eosvos` sets, over the time without.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from eosvos.core import DEMO

OURS = 'from eosvos.cli import app; app()'
PEER = f'import torch; {OURS}'  # torch is loaded first: the policy comes too late, and threads spin
BUSY = 'while True: pass'


def seconds(code, frames, out):
    "How long the command `segment` takes."
    names = 'OMP_WAIT_POLICY', 'OMP_NUM_THREADS', 'GOMP_SPINCOUNT'
    environment = {name: value for name, value in os.environ.items() if name not in names}
    command = [
        sys.executable,
        '-c',
        code,
        'segment',
        frames,
        DEMO / 'masks/00000.png',
        '--out',
        out,
    ]
    start = perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return perf_counter() - start


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--frames', type=int, default=15)
    parser.add_argument(
        '--busy', type=int, default=os.cpu_count(), help='processes that do nothing but count'
    )
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / 'frames').mkdir()
        for i in range(arguments.frames):
            shutil.copy(DEMO / f'frames/{i:05d}.jpg', folder / 'frames')
        busy = [subprocess.Popen([sys.executable, '-c', BUSY]) for _ in range(arguments.busy)]
        try:
            ours = seconds(OURS, folder / 'frames', folder / 'ours')
            peer = seconds(PEER, folder / 'frames', folder / 'peer')
        finally:
            for process in busy:
                process.kill()
    print(
        f'{arguments.frames} frames beside {arguments.busy} busy processes: '
        f'{ours:.1f} s sleeping, {peer:.1f} s spinning'
    )
    print(f'ratio busy-sleeping-spinning {ours / peer:.3f}')


if __name__ == '__main__':
    main()
