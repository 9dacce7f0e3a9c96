"Library, pages, README and settings are what the notebooks and pyproject.toml say."

import ast
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / 'nbs').glob('*.ipynb'))
LESSONS = [p for p in NOTEBOOKS if p.stem[0].isdigit()]
# these export nothing
MODULES = [p for p in LESSONS if p.stem[3:] not in ('method', 'study', 'scale')]
PYPROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())
EXPORT = re.compile(r'^#\|\s*(export|exports|exporti|default_exp)\b', re.M)
each = {'argvalues': NOTEBOOKS, 'ids': [p.stem for p in NOTEBOOKS]}
each_lesson = {'argvalues': LESSONS, 'ids': [p.stem for p in LESSONS]}
each_module = {'argvalues': MODULES, 'ids': [p.stem for p in MODULES]}


def cells(notebook, kind=None):
    "The sources of the cells of `notebook`, all or those of one kind."
    return [
        ''.join(c['source'])
        for c in json.loads(notebook.read_text())['cells']
        if kind in (None, c['cell_type'])
    ]


def output_text(output):
    "Whatever is text in one stored output."
    data = output.get('data', {})
    return '\n'.join(
        ''.join(text)
        for text in [output.get('text', ''), *(data[m] for m in data if m.startswith('text/'))]
    )


# ---- in sync


def nbdev(command, folder):
    "Run a command of nbdev in a copy of the project."
    environment = {
        k: v for k, v in os.environ.items() if k != 'IN_TEST'
    }  # with it nbdev would export nothing
    subprocess.run(
        [Path(sysconfig.get_path('scripts')) / command],
        cwd=folder,
        env=environment,
        check=True,
        timeout=600,
    )


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "A copy of notebooks and settings with an empty library."
    folder = tmp_path_factory.mktemp('copy')
    (folder / 'nbs').mkdir()
    for notebook in NOTEBOOKS:
        shutil.copy(notebook, folder / 'nbs')
    (folder / 'eosvos').mkdir()
    shutil.copy(ROOT / 'eosvos/__init__.py', folder / 'eosvos')
    shutil.copy(ROOT / 'pyproject.toml', folder)
    return folder


def test_library_is_exported(copy):
    nbdev('nbdev-export', copy)

    def modules(folder):
        return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob('*.py')}

    made, ours = modules(copy / 'eosvos'), modules(ROOT / 'eosvos')
    assert sorted(ours) == sorted(made), (
        'run nbdev-export, and delete modules that no notebook makes'
    )
    stale = [name for name in made if made[name] != ours[name]]
    assert not stale, f'not what the notebooks export: {stale}; run nbdev-export'


def test_notebooks_are_clean(copy):
    nbdev('nbdev-clean', copy)
    dirty = [p.name for p in NOTEBOOKS if p.read_text() != (copy / 'nbs' / p.name).read_text()]
    assert not dirty, f'run nbdev-clean: {dirty}'


def test_pages_and_readme_are_built():
    run = subprocess.run(
        [sys.executable, 'nbs/_build_docs.py', '--check'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]


def test_no_link_is_set_inside_another():
    pages = sorted((ROOT / 'docs').glob('*.html'))
    assert [p.name for p in pages if '</a>](' in p.read_text()] == [], 'names become links unasked'


def test_settings_ini_equals_pyproject():
    parser = configparser.ConfigParser(delimiters='=')
    parser.read(ROOT / 'settings.ini')
    ini, project, nbdev = parser['DEFAULT'], PYPROJECT['project'], PYPROJECT['tool']['nbdev']
    assert ini['lib_name'] == ini['repo'] == ini['lib_path'] == project['name']
    assert ini['description'] == project['description']
    assert ini['author'] == project['authors'][0]['name']
    assert ini['license'] == project['license'].lower()
    assert f'>={ini["min_python"]}' == project['requires-python']
    assert ini['requirements'].split() == project['dependencies']
    assert ini['dev_requirements'].split() == project['optional-dependencies']['dev']
    assert ini['console_scripts'].split() == [
        f'{name}={target}' for name, target in project['scripts'].items()
    ]
    assert {key: ini[key] for key in ('doc_path', 'tst_flags')} == {
        key: nbdev[key] for key in ('doc_path', 'tst_flags')
    }
    assert ini.getboolean('update_pyproject') is nbdev['update_pyproject'] is False
    assert ini.getboolean('custom_sidebar') is nbdev['custom_sidebar'] is True
    assert f'__version__ = "{ini["version"]}"' in (ROOT / 'eosvos/__init__.py').read_text()


# ---- the library stands on its dependencies alone


def test_library_imports_only_its_dependencies():
    requirements = PYPROJECT['project']['dependencies']
    names = [re.match(r'[\w-]+', requirement)[0] for requirement in requirements]
    known = {*names, 'PIL', 'eosvos', *sys.stdlib_module_names}
    extras = PYPROJECT['project']['optional-dependencies']
    optional = {
        name.replace('-', '_') for extra in ('train', 'app', 'notebook') for name in extras[extra]
    }
    for file in (ROOT / 'eosvos').rglob('*.py'):
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            else:
                continue
            # an extra is imported where it is used
            allowed = known if node in tree.body else known | optional
            strangers = {module.split('.')[0] for module in modules} - allowed
            assert not strangers, f'{file.name} imports {strangers}, which is no dependency'


def test_library_imports_without_development_tools():
    files = sorted((ROOT / 'eosvos').glob('[!_]*.py'))
    modules = ', '.join(['eosvos', *(f'eosvos.{file.stem}' for file in files)])
    tools = {'nbdev', 'fastcore', 'execnb', 'IPython'}
    code = f'import sys, {modules}; print(*sorted({tools} & set(sys.modules)))'
    run = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == ''


# ---- what make installs


def make_demo(folder, *words):
    "What `make demo` would say and do in the folder, line by line."
    environment = {k: v for k, v in os.environ.items() if k not in ('MAKEFLAGS', 'TORCH')}
    run = subprocess.run(
        ['make', '--no-print-directory', '-n', 'demo', *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return run.stdout.splitlines()


def test_make_takes_pytorch_from_the_index_that_torch_names(tmp_path):
    for name in ('Makefile', 'pyproject.toml'):
        shutil.copy(ROOT / name, tmp_path)
    plain = make_demo(tmp_path)
    command, wheels = '.venv/bin/python -m pip install ', 'https://download.pytorch.org/whl/'
    (ours,) = [line for line in plain if command in line]
    assert command + '-q --disable-pip-version-check -e ".[dev]"' in ours
    for build in ('cpu', 'cu128'):
        first = f'{command}-q --disable-pip-version-check torch torchvision --index-url '
        # nothing else is added, and a failure of either is handled alike
        expected = [
            line.replace(command, f'{first}{wheels}{build} && {command}') for line in plain
        ]
        assert make_demo(tmp_path, f'TORCH={build}') == expected != plain
    (tmp_path / '.venv').mkdir()
    (tmp_path / '.venv/.ready').touch()
    demo = ['OMP_NUM_THREADS=1 .venv/bin/eosvos demo']
    assert make_demo(tmp_path) == demo
    told = '.venv is there already, so TORCH=cpu changes nothing; remove .venv first'
    assert make_demo(tmp_path, 'TORCH=cpu') == [told, *demo]


# ---- what is stored in the notebooks


@pytest.mark.parametrize('notebook', **each)
def test_stored_outputs(notebook):
    kib = notebook.stat().st_size // 1024
    assert kib < 600, f'{kib} KiB: make its figures smaller'
    for cell in json.loads(notebook.read_text())['cells']:
        for output in cell.get('outputs', []):
            assert output['output_type'] != 'error', f'a stored traceback: {output.get("evalue")}'
            private = re.search(r'/(?:home|root|tmp|work|Users)/[\w.-]+', output_text(output))
            assert private is None, f'a path of the machine it ran on: {private[0]}'


@pytest.mark.parametrize('notebook', **each)
def test_pictures_have_words(notebook):
    for cell in json.loads(notebook.read_text())['cells']:
        kinds = [kind for o in cell.get('outputs', []) for kind in o.get('data', {})]
        if any(kind.startswith('image/') for kind in kinds):
            first = cell['source'][0]
            words = re.fullmatch(r'#\| fig-alt: "([^"]{40,})"\n', first)
            assert words, f'expected what the figure shows, `#| fig-alt: "..."`, got {first}'


@pytest.mark.parametrize('notebook', **each)
def test_formulas_name_their_symbols_with_one_backslash(notebook):
    doubled = re.findall(r'\\\\[a-zA-Z]+', '\n'.join(cells(notebook, 'markdown')))
    assert doubled == [], 'two backslashes break the line, and the name is set as letters'


# ---- the form of a lesson


@pytest.mark.parametrize('notebook', **each)
def test_opens_with_title_and_subtitle(notebook):
    assert re.fullmatch(r'# .+\n\n?> .+', cells(notebook)[0].strip()), (
        'the first cell holds `# Title` and `> one line`, nothing else'
    )


@pytest.mark.parametrize('notebook', **each_lesson)
def test_closes_with_summary_and_exercises(notebook):
    headings = re.findall(r'^## (.+?)\s*$', '\n'.join(cells(notebook, 'markdown')), re.M)
    assert headings[-2:] == ['Summary', 'Exercises'], f'the last two sections are {headings[-2:]}'


@pytest.mark.parametrize('notebook', **each_module)
def test_is_named_after_its_module(notebook):
    modules = re.findall(r'^#\|\s*default_exp\s+(\S+)', '\n'.join(cells(notebook, 'code')), re.M)
    assert re.fullmatch(r'\d[\dw]_[a-z_]+', notebook.stem) and modules == [notebook.stem[3:]]


@pytest.mark.parametrize('notebook', **each_module)
def test_every_public_name_is_used_in_the_lesson(notebook):
    tree = ast.parse((ROOT / 'eosvos' / f'{notebook.stem[3:]}.py').read_text())
    lists = [
        ast.literal_eval(o.value)
        for o in tree.body
        if isinstance(o, ast.Assign) and getattr(o.targets[0], 'id', '') == '__all__'
    ]
    lesson = '\n'.join(source for source in cells(notebook, 'code') if not EXPORT.search(source))
    unused = [name for name in sum(lists, []) if not re.search(rf'\b{name}\b', lesson)]
    assert not unused, f'exported, but in no cell of the lesson: {unused}'


@pytest.mark.parametrize('notebook', **each)
def test_imports_stand_in_cells_of_their_own(notebook):
    "nbdev runs cells with imports to make the pages: other code in them would lack what it needs."
    for source in cells(notebook, 'code'):
        try:
            body = ast.parse(source).body
        except SyntaxError:
            continue  # `!command` and `%magic`
        imports = [isinstance(node, ast.Import | ast.ImportFrom) for node in body]
        assert all(imports) or not any(imports), f'an import beside other code:\n{source}'
