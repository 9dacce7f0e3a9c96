"Pages for Colab, or any kernel that has one notebook and nothing of the project."

import re

CLONE = """from pathlib import Path

if not Path('lesson.py').exists():  # outside nbs/: fetch the project, install it, and go there
    !test -d eosvos_book || git clone -q --depth 1 ADDRESS eosvos_book
    !pip install -q ./eosvos_book
    %cd eosvos_book/nbs"""
ROAD = '[01][0-9]_*.ipynb'  # the pages that get such a copy


def for_colab(
    notebook: dict,  # a page of the road
    address: str,  # that git clones from
) -> dict:
    "The page without outputs and without the cells that need data, and a cell before all others."
    cell = dict(cell_type='code', id='colab', metadata={}, execution_count=None, outputs=[])
    cells = [cell | dict(source=CLONE.replace('ADDRESS', address))]
    for cell in notebook['cells']:
        if cell['cell_type'] == 'code':
            if re.search(r'^#\| *data$', ''.join(cell['source']), re.M):
                continue
            cell = cell | dict(outputs=[], execution_count=None)
        cells.append(cell)
    return notebook | dict(cells=cells)


def link(
    name: str,  # of the notebook
    address: str,  # of the repository, on GitHub
) -> dict:  # a cell
    "A line that leads from the page to its copy on Colab."
    path = f'{address.removeprefix("https://github.com/")}/blob/main/docs/colab/{name}'
    source = f'[Open this page in Colab](https://colab.research.google.com/github/{path})'
    return dict(cell_type='markdown', id='to-colab', metadata={}, source=source)
