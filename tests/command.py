"Commands in this process, and presets with other values: what many tests need."

from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from types import SimpleNamespace

import tyro

from eosvos import cli
from eosvos.train import PRESETS


def invoke(arguments):
    "Run `eosvos` with these words: exit_code, exception, stdout, stderr, and both as output."
    out, errors, exception, code = StringIO(), StringIO(), None, 0
    with redirect_stdout(out), redirect_stderr(errors):
        try:
            cli.app([str(word) for word in arguments])
        except SystemExit as stopped:  # as Python ends a process
            exception, code = stopped, stopped.code
            if isinstance(code, str):
                print(code, file=errors)
                code = 1
        except Exception as error:
            exception, code = error, 1
    said, wrong = out.getvalue(), errors.getvalue()
    return SimpleNamespace(
        exit_code=code or 0, exception=exception, stdout=said, stderr=wrong, output=said + wrong
    )


def preset(name, changes):
    "A preset of training with other values, by name: {'tasks.steps': 2, ...}."
    words = []
    for key, value in changes.items():
        if isinstance(value, bool):
            words.append(f'--{key}' if value else f'--no-{key}')
            continue
        values = value if isinstance(value, list) else [value]
        words.append(f'--{key}')
        for part in values:
            words += part if isinstance(part, list) else [part]
    chosen = PRESETS[name]
    return tyro.cli(type(chosen), default=chosen, args=[str(word) for word in words])
