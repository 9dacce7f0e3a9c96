'''---
title: "API"
description: "Every exported name, and the notebook that makes it"
---'''

import ast
from pathlib import Path

import eosvos
from eosvos._modidx import d as index

root = Path(eosvos.__file__).parent.parent


def summary(body, name):
    "The first line of the docstring of the function or class `name` among the statements `body`."
    node = next((o for o in body if getattr(o, 'name', None) == name), None)
    return (ast.get_docstring(node) or '').partition('\n')[0] if node else ''


for module, symbols in index['syms'].items():
    path = root / (module.replace('.', '/') + '.py')
    body = ast.parse(path.read_text()).body
    names = next(
        ast.literal_eval(o.value)
        for o in body
        if isinstance(o, ast.Assign) and getattr(o.targets[0], 'id', '') == '__all__'
    )
    page = next(iter(symbols.values()))[0].partition('#')[0]
    print(f'## {module}\n\n| Name | Summary |\n|:-----|:--------|')
    for name in names:
        link = symbols.get(f'{module}.{name}', (page,))[0]  # a constant has no anchor of its own
        print(f'| [`{name}`](/{link}) | {summary(body, name)} |')
    print()
