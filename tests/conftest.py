"Set-up common to the tests: one thread a process, no window, the data that EOSVOS_DATA names."

import os
import shutil
from pathlib import Path

import pytest

os.environ.setdefault(
    'OMP_NUM_THREADS', '1'
)  # before torch is imported; processes run side by side
os.environ['MPLBACKEND'] = 'agg'
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'chrome'))), None)
NO_DATA = 'EOSVOS_DATA is not set: what needs the shared data is skipped'
if DATA := os.environ.get('EOSVOS_DATA'):
    os.environ['EOSVOS_DATA'] = DATA = str(Path(DATA).resolve())


def pytest_terminal_summary(terminalreporter):
    if not DATA:
        terminalreporter.write_line(
            f'{NO_DATA}, cells marked `#| data` in the notebooks among it', yellow=True
        )


@pytest.fixture(scope='session')
def data() -> Path:  # the folder that EOSVOS_DATA names
    "The shared data; a test that asks for it is skipped where there are none."
    if not DATA:
        pytest.skip(NO_DATA)
    assert Path(DATA).is_dir(), f'EOSVOS_DATA is {DATA}, which is not a folder'
    return Path(DATA)


@pytest.fixture(scope='module')
def browser():
    sync_api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    if not CHROMIUM:
        pytest.skip('there is no Chromium to open the page in')
    with sync_api.sync_playwright() as playwright:
        camera = [f'--use-fake-{part}-for-media-stream' for part in ('device', 'ui')]
        words = ['--no-sandbox', *camera]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=words)
        yield chromium
        chromium.close()


def demo_set(root, count):  # folder, frames
    "Frames of the demo clip, laid out below the folder as an image set called `demo`."
    from eosvos.core import DEMO

    for ours, theirs in (('images', 'frames'), ('masks', 'masks')):
        (root / 'images/demo' / ours).mkdir(parents=True)
        for file in sorted((DEMO / theirs).iterdir())[:count]:
            (root / 'images/demo' / ours / file.name).write_bytes(file.read_bytes())
