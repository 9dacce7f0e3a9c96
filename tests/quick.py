"Run the tests and notebooks that uncommitted changes touch: `make quick`."

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def changed():
    "The files that differ from the last commit, new ones among them."
    lines = subprocess.run(
        ['git', 'status', '--porcelain', '-uall'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [Path(line[3:].split(' -> ')[-1].strip('"')) for line in lines.splitlines()]


def selected(files):
    "Names for pytest: what changed, and the tests of a changed notebook's module."
    notebooks = [
        file
        for file in files
        if file.parts[0] == 'nbs' and file.suffix == '.ipynb' and (ROOT / file).exists()
    ]
    tests = {
        file
        for file in files
        if re.fullmatch(r'test_\w+\.py', file.name) and (ROOT / file).exists()
    }
    for module in (re.sub(r'^\d+w?_', '', file.stem) for file in notebooks):
        own = Path(f'tests/test_{module}.py')
        users = [
            file.relative_to(ROOT)
            for file in (ROOT / 'tests').glob('test_*.py')
            if f'eosvos.{module} import' in file.read_text()
        ]
        tests |= {own} if (ROOT / own).exists() else set(users)
    return [
        *map(str, sorted(tests)),
        *(f'tests/test_notebooks.py::test_notebook[{file.stem}]' for file in notebooks),
    ]


if __name__ == '__main__':
    names = selected(changed())
    print('make quick:', *names or ['nothing that is tested has changed'])
    if names:
        sys.exit(
            subprocess.run(
                [sys.executable, '-m', 'pytest', '-q', '-n', '2', '--dist', 'worksteal', *names],
                cwd=ROOT,
            ).returncode
        )
