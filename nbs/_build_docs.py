"""Build `docs/` and `README.md` from the notebooks, with nbdev and smalldocs.

    python nbs/_build_docs.py            # write docs/, README.md, nbs/sidebar.yml and nbs/nbdev.yml
    python nbs/_build_docs.py --check    # write nothing; fail where they are out of date

Both work on a copy, run no lesson (the pages show the stored outputs), need no network and no git,
and fail on a link that leads nowhere or a page that would load something from another site.
"""

import argparse
import ast
import base64
import json
import os
import re
import shutil
import sys
import tempfile
import tomllib
import warnings
from hashlib import sha256
from pathlib import Path, PurePosixPath
from posixpath import normpath
from urllib.parse import unquote

from _colab import ROAD, for_colab, link
from smalldocs import config, layout
from smalldocs.notebook import cell_options, figure
from smalldocs.site import Site, rel

ROOT = Path(__file__).resolve().parent.parent
SECTIONS = {  # sidebar: section -> how the names of its notebooks begin
    'Road 1: a detector': r'0\d_|10_',
    'Road 2: from one frame to a video': r'1[1-3]_',
    'Road 3: meta-learning': r'1[4-9]_',
    'Workshop': r'\dw_',
    'Beside the road': r'glossary|teach',
}
FOLD = '#| code-fold: true\n#| code-summary: "Imports"\n'
NUMBER = r'^\d+w?_'  # what stands before the name of the module: 01_resnet, 1w_core
BLOB = '/blob/main/'  # how nbdev begins a link to the source, there being no repository URL
SEARCH = '''(() => {
  const index = INDEX, fetch = window.fetch, Fuzzy = window.Fuse;
  const found = () => Promise.resolve(new Response(JSON.stringify(index)));
  window.fetch = (url, ...more) =>
    String(url).endsWith("search.json") ? found() : fetch(url, ...more);
  const plain = (text) => text.normalize("NFD").replace(/\\p{M}/gu, "").toLowerCase();
  const rank = ({ title, section, text }, words) => {
    const heading = plain(`${title} ${section}`), all = `${heading} ${plain(text)}`;
    return [heading.includes(words), all.includes(words),
      words.split(/\\s+/).every((word) => all.includes(word)), true].indexOf(true);
  };
  // what has the words comes first, and similar letters count only where nothing has them
  window.Fuse = class extends Fuzzy {
    search(query, { limit }) {
      const ranks = index.map((item) => ({ item, rank: rank(item, plain(query)) }));
      const hits = ranks.filter((hit) => hit.rank < 3).sort((a, b) => a.rank - b.rank);
      return hits.length ? hits.slice(0, limit) : super.search(query, { limit });
    }
  };
})();
'''
VIEWPORT = '<meta name="viewport" content="width=device-width">'
DEFINITION = ast.FunctionDef | ast.ClassDef
IMAGES = {
    'image/png': 'png',
    'image/jpeg': 'jpg',
    'image/gif': 'gif',
    'image/svg+xml': 'svg',
}
MADE = (
    'sidebar.yml',
    'nbdev.yml',
    'README.md',
    'made_from.json',
)  # compared byte by byte, for our own code writes them
EXPECTED = re.compile(
    'output-file is not read|unknown key format-links|keep-md|commonmark is not built'
)  # warnings of smalldocs


# ---- notebooks -> nbdev -> processed notebooks


def copy_tree(to):
    "What nbdev reads, copied to the folder `to`."
    shutil.copytree(
        ROOT / 'nbs',
        to / 'nbs',
        ignore=shutil.ignore_patterns('_proc', '.ipynb_checkpoints', '__pycache__'),
    )
    shutil.copy(ROOT / 'pyproject.toml', to)
    (to / 'eosvos').symlink_to(ROOT / 'eosvos')


def sidebar(notebooks):
    "The text of `sidebar.yml` for the file names `notebooks`."
    lines = ['website:', '  sidebar:', '    contents:', '      - index.ipynb']
    for title, beginning in SECTIONS.items():
        lines += [f'      - section: "{title}"', '        contents:']
        lines += [f'          - {name}' for name in notebooks if re.match(beginning, name)]
    lost = [name for name in notebooks if name != 'index.ipynb' and name not in '\n'.join(lines)]
    if lost:
        sys.exit(f'no section in nbs/_build_docs.py holds {", ".join(lost)}')
    return '\n'.join([*lines, '      - api.qmd', ''])


def process(work):
    "Let nbdev turn `work/nbs` into `work/_proc`: what `nbdev-docs` does before it calls Quarto."
    sys.path.insert(
        0, str(ROOT)
    )  # nbdev's workers inherit it, and so read this library and no other
    os.chdir(work)
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs

    warnings.filterwarnings('ignore', message='Found cells containing imports')
    refresh_quarto_yml()
    names = sorted(p.name for p in (work / 'nbs').glob('*.ipynb') if p.name[0] not in '_.')
    (work / 'nbs/sidebar.yml').write_text(sidebar(names))
    return proc_nbs(force=True)


def tidy(text):
    "`text` as any machine and any Python would have written it."
    text = text.replace(f'{ROOT}/', '').replace('pathlib._local.', 'pathlib.')
    return re.sub(r' at 0x[0-9a-fA-F]+', '', text)


def join(text):
    return text if isinstance(text, str) else ''.join(text)


def definitions(path):
    "Give each definition of a processed notebook a heading with its anchors; fold imports."
    module = re.sub(NUMBER, '', path.stem)
    file = ROOT / 'eosvos' / f'{module}.py'
    known = ast.parse(file.read_text()).body if file.exists() else []
    line = {o.name: o.lineno for o in known if isinstance(o, DEFINITION) and o.name[0] != '_'}
    nb, cells = json.loads(path.read_text()), []
    for cell in nb['cells']:
        body = statements(cell)
        named = [node for node in body if isinstance(node, DEFINITION) and node.name in line]
        if body and all(isinstance(node, ast.Import | ast.ImportFrom) for node in body):
            cell['source'] = f'{FOLD}{join(cell["source"])}'
        for node, part in zip(named, split(cell, named)):
            cells += [heading(node, module, line[node.name]), part]
        cells += [] if named else [cell]
    path.write_text(json.dumps(nb | {'cells': cells}))


def split(cell, named):
    "A cell for each of its definitions; what stands before the first goes with it."
    code = cell_options(join(cell['source']))[1].split('\n')
    starts = []
    for node in named[1:]:
        start = min(part.lineno for part in [node, *node.decorator_list]) - 1
        while code[start - 1].startswith('#'):
            start -= 1
        starts.append(start)
    pairs = zip([0, *starts], [*starts, len(code)])
    texts = ['\n'.join(code[a:b]).strip('\n') for a, b in pairs]
    parts = [cell | {'source': text, 'id': f'{cell["id"]}-{k}'} for k, text in enumerate(texts)]
    for part in parts[:-1]:
        part['outputs'] = []
    return parts


def statements(cell):
    "The Python in a cell; nothing where it is none."
    if cell['cell_type'] != 'code':
        return []
    try:
        return ast.parse(cell_options(join(cell['source']))[1]).body
    except SyntaxError:
        return []  # `!command` and `%magic`


def heading(node, module, line):
    "The cell before a definition. Methods have anchors there too, for nbdev links to them."
    methods = [
        o.name
        for o in getattr(node, 'body', [])
        if isinstance(o, ast.FunctionDef) and o.name[0] != '_'
    ]
    anchors = ''.join(f'<a id="{node.name.lower()}.{name.lower()}"></a>' for name in methods)
    style = '{target="_blank" style="float:right; font-size:smaller"}'
    link = f'[source]({BLOB}eosvos/{module}.py#L{line}){style}'
    source = '\n\n'.join(part for part in (link, f'### {node.name}', anchors) if part)
    return dict(cell_type='markdown', id=f'def-{node.name.lower()}', metadata={}, source=source)


class Figures:
    "Takes the pictures out of processed notebooks into files of the folder `to`."

    def __init__(self, to):
        self.to = to
        to.mkdir()

    def notebook(self, path):
        "Rewrite the notebook `path`; its pictures become `page-1.png`, `page-2.png`, ..."
        nb, self.page, self.count = json.loads(path.read_text()), re.sub(NUMBER, '', path.stem), 0
        for cell in nb['cells']:
            if cell['cell_type'] == 'code':
                self.outputs(cell)
            else:
                self.attachments(cell)
        path.write_text(json.dumps(nb))

    def save(self, mime, data):
        self.count += 1
        name = f'{self.page}-{self.count}.{IMAGES[mime]}'
        data = join(data)
        (self.to / name).write_bytes(
            data.encode() if mime == 'image/svg+xml' else base64.b64decode(data)
        )
        return f'figures/{name}'

    def outputs(self, cell):
        options, shown = cell_options(join(cell['source']))[0], 0
        cell['outputs'] = [
            o for o in cell['outputs'] if o.get('name') != 'stderr'
        ]  # what a machine grumbles is no lesson
        for output in cell['outputs']:
            data = output.get('data', {})
            if 'text/markdown' in data:
                data['text/markdown'] = tidy(join(data['text/markdown']))
            mime = next((m for m in IMAGES if m in data), None)
            if mime is None or 'text/html' in data:
                continue
            width = output.get('metadata', {}).get(mime, {}).get('width')
            size = f' width="{width}"' if width else ''
            output['data'] = {
                'text/html': figure(
                    f'<img src="{self.save(mime, data[mime])}"{size} class="img-fluid">',
                    options,
                    shown,
                )
            }
            shown += 1

    def attachments(self, cell):
        source = join(cell['source'])
        for name, bundle in cell.pop('attachments', {}).items():
            mime, data = next(iter(bundle.items()))
            source = source.replace(f'attachment:{name}', self.save(mime, data))
        cell['source'] = source


# ---- processed notebooks -> smalldocs -> docs/


def equations(body):
    "Quarto's labels `$$..$$ {#eq-x}` and references `@eq-x`, as tags and links."
    number = {}

    def label(m):
        number[m[2]] = len(number) + 1
        return f'[]{{#{m[2]}}}\n\n$${m[1].rstrip()} \\tag{{{number[m[2]]}}}\n$$'

    body = re.sub(r'\$\$((?:(?!\$\$).)*)\$\$[ \t]*\{#(eq-[\w-]+)\}', label, body, flags=re.S)
    return re.sub(
        r'(?<![\w@])@(eq-[\w-]+)',
        lambda m: f'[Equation {number[m[1]]}](#{m[1]})' if m[1] in number else m[0],
        body,
    )


def source_page(path):
    "The page in `docs/` that shows a file of the project; what is no text is copied there."
    path = PurePosixPath(path)
    text = path.suffix in ('.py', '.md', '.toml', '.txt', '.yml', '.ini', '')
    if not text:
        return f'source/{path}'
    parts = path.with_suffix('').parts if path.suffix == '.py' else path.parts
    return f'source/{".".join(parts)}.html'


class Pages(Site):
    "The site, with nbdev's file names, and every link within the project relative."

    linked = frozenset()  # files of the project outside nbs/ that some page links to

    def read(self, src):
        page = super().read(src)
        if name := page.front.get('output-file'):
            page.out = page.src.with_name(name)
        body = re.sub(
            r'^(#{2,6} [\w.]*?)__(\w+)__[ \t]*$', r'\1\\_\\_\2\\_\\_', page.body, flags=re.M
        )  # `### A.__call__` is not bold
        page.body = equations(
            re.sub(r'\[(`_[^`]+`)\]\(/[^)]*\)', r'\1', body)
        )  # nbdev links private names too; they have no anchor
        return page

    def resolve(self, href, page, record=True):
        path, hash_, anchor = href.partition('#')
        if path.startswith(BLOB):
            return self.source(path.removeprefix(BLOB), page) + hash_ + anchor
        if path.startswith('/') and any(str(p.out) == path[1:] for p in self.pages.values()):
            return rel(path[1:], page) + hash_ + anchor
        file = normpath(f'nbs/{path}')
        if path.startswith('../') and (ROOT / file).is_file():
            return self.source(file, page) + hash_ + anchor
        return super().resolve(href, page, record)

    def source(self, file, page):
        self.linked = self.linked | {file}
        return rel(source_page(file), page)


def write_sources(files, out):
    "A page of highlighted text for each of `files`, an anchor a line; other files are copied."
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import TextLexer, get_lexer_for_filename
    from pygments.util import ClassNotFound

    for file in sorted(files):
        to = out / source_page(file)
        to.parent.mkdir(parents=True, exist_ok=True)
        if to.suffix != '.html':
            shutil.copy(ROOT / file, to)
            continue
        try:
            lexer = get_lexer_for_filename(file)
        except ClassNotFound:
            lexer = TextLexer()
        style = {
            'cssstyles': 'font-size:.9rem; overflow-x:auto',
            'prestyles': 'line-height:135%',
            'style': 'default',
        }
        formatter = HtmlFormatter(
            full=True, title=file, linenos='inline', lineanchors='L', anchorlinenos=True, **style
        )
        text = highlight((ROOT / file).read_text(), lexer, formatter)
        text = text.replace('<head>', f'<head>{VIEWPORT}', 1)
        to.write_text(re.sub(r'((?:id|name)="|href="#)L-', r'\1L', text))


def anchors(page):
    "The ids and names in the file `page`."
    return set(re.findall(r'\b(?:id|name)="([^"]+)"', page.read_text()))


def methods_to_classes(out):
    "Links to a method that the lesson does not show go to its class."
    known = {page: anchors(page) for page in out.glob('*.html')}

    def target(m, page):
        there = known.get(page.parent / m[2] if m[2] else page, {m[3] + m[4]})
        return f'{m[1]}{m[2]}#{m[3]}"' if m[3] + m[4] not in there and m[3] in there else m[0]

    for page in known:
        text = re.sub(
            r'(<a [^>]*?href=")([^"#]*)#([\w-]+)(\.\w+)"',
            lambda m, page=page: target(m, page),
            page.read_text(),
        )
        page.write_text(text)


def make_offline(out):
    "No request leaves the site: KaTeX is ours, no web font, and the search works from file:// too."
    libs = out / 'site_libs'
    shutil.copytree(ROOT / 'nbs/_katex', libs / 'katex')  # KaTeX 0.16.22, woff2 fonts only
    index = (out / 'search.json').read_text()
    (libs / 'search-index.js').write_text(SEARCH.replace('INDEX', index))
    for file in out.rglob('*.css'):
        file.write_text(re.sub(r'@import\s+url\(["\']?https?:[^)]*\);', '', file.read_text()))
    for file in out.glob('*.html'):  # pages of the source use neither
        text = file.read_text().replace(f'{layout.KATEX}/contrib/', f'{layout.KATEX}/')
        text = text.replace(layout.KATEX, 'site_libs/katex')
        script = '<script src="site_libs/search-index.js"></script>\n</head>'
        file.write_text(text.replace('</head>', script, 1))


# ---- the processed index -> README.md


def readme(path):
    "The README: the processed index `path`, its links as the repository needs them."
    front, *cells = json.loads(path.read_text())['cells']
    fields = dict(re.findall(r'^(title|description): (.*)$', join(front['source']), re.M))
    parts = [
        f'# {fields["title"]}',
        '<!-- Made from nbs/index.ipynb by nbs/_build_docs.py; do not edit. -->',
        f'> {fields["description"]}',
    ]
    for cell in cells:
        options, source = cell_options(join(cell['source']))
        if cell['cell_type'] != 'code':
            parts.append(
                ''
                if 'WARNING: THIS FILE' in source
                else readme_links(re.sub(r'^:::.*\n?', '', source, flags=re.M))
            )
            continue
        if options.get('include', True) and options.get('echo', True):
            parts.append(f'``` python\n{source}\n```')
        if options.get('include', True) and options.get('output', True):
            parts += [readme_output(o, path.parent / 'figures') for o in cell['outputs']]
    return '\n\n'.join(part.strip('\n') for part in parts if part.strip()) + '\n'


def readme_output(output, figures):
    data = output.get('data', {})
    rich = join(data.get('text/html', data.get('text/markdown', '')))
    if drawing := re.search(r'<svg .*</svg>', rich, re.S):  # which GitHub shows as a file only
        file = figures / f'index-{len([*figures.glob("index-*.svg")]) + 1}.svg'
        file.write_text(drawing[0].replace('style="', 'style="background:#fff;', 1))
        alt = re.search(r'aria-label="([^"]*)"', drawing[0])[1]
        return f'<img src="docs/figures/{file.name}" alt="{alt}">'
    if image := re.search(r'<img [^>]*src="figures/[^>]*>', rich):
        caption = re.search(r'<figcaption>(.*?)</figcaption>', rich, re.S)
        return readme_links(image[0].replace(' class="img-fluid"', '')) + (
            f'\n\n*{caption[1]}*' if caption else ''
        )
    if rich:
        return readme_links(rich)
    text = join(output.get('text', data.get('text/plain', '')))
    return '\n'.join('    ' + line for line in text.rstrip().splitlines())


def readme_links(text):
    "`text` of the index with its links, in Markdown and in HTML, as seen from the root."
    return re.sub(r'(\]\(|(?:src|href)=")([^)"\s]+)', lambda m: m[1] + readme_link(m[2]), text)


def readme_link(href):
    "One link; a name's page becomes its notebook."
    path, hash_, anchor = href.partition('#')
    if not path or re.match(r'[a-z]+:', path):
        return href
    if path.startswith('figures/'):
        return f'docs/{path}' + hash_ + anchor
    if path.startswith('/'):
        notebooks = [
            p
            for p in sorted((ROOT / 'nbs').glob('*.ipynb'))
            if re.sub(NUMBER, '', p.stem) == Path(path).stem
        ]
        return f'nbs/{notebooks[0].name}' if notebooks else f'docs{path}' + hash_ + anchor
    return ('docs/api.html' if path == 'api.qmd' else normpath(f'nbs/{path}')) + hash_ + anchor


# ---- checks


def dead_links(docs):
    "A line for each link, image or script of the pages in `docs` that leads nowhere."
    known = {file: anchors(file) for file in sorted(docs.rglob('*.html'))}
    for file in known:
        for href in re.findall(r'<[a-z]+ [^>]*?\b(?:href|src)="([^"]*)"', file.read_text()):
            if re.match(r'[a-z]+:', href):
                continue
            path, _, anchor = unquote(href).partition('#')
            target = (file.parent / path).resolve() if path else file
            if not target.exists():
                yield f'{file.relative_to(docs)}: no file {href}'
            elif anchor and anchor not in known.get(target, {anchor}):
                yield f'{file.relative_to(docs)}: no anchor {href}'


def dead_readme_links(text, docs):
    "The same for the README, whose links into docs/ are looked up in `docs`."
    for href in re.findall(r'\]\(([^)\s]+)', text) + re.findall(r'(?:src|href)="([^"]+)', text):
        path = unquote(href.partition('#')[0])
        if not path or re.match(r'[a-z]+:', path):
            continue
        target = docs / path.removeprefix('docs/') if path.startswith('docs/') else ROOT / path
        if not target.exists():
            yield f'README.md: no file {href}'


def foreign(docs):
    "A line for each style, script, picture or frame that a page would load from another site."
    css = r'(?:@import|url\()[^;)]{0,9}((?:https?:)?//[^"\')]+)'
    html = r'<(?:script|link|img|iframe|video|source)\b[^>]*?(?:src|href)="((?:https?:)?//[^"]+)"'
    for file in sorted([*docs.rglob('*.css'), *docs.rglob('*.html')]):
        for url in re.findall(css if file.suffix == '.css' else html, file.read_text()):
            yield f'{file.relative_to(docs)}: loads {url}'


# ---- all of it


def repository():
    "The address of the published project, with which its pages open in Colab; empty where not set."
    return tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']['eosvos']['repository']


def build(work):
    "Build everything in the empty folder `work`: the files made, by path, and what is wrong."
    copy_tree(work)
    proc, address = process(work), repository()
    figures = Figures(proc / 'figures')
    for path in sorted(proc.glob('*.ipynb')):
        definitions(path)
        figures.notebook(path)
        if address and path.match(ROAD):
            nb = json.loads(path.read_text())
            nb['cells'].insert(1, link(path.name, address))
            path.write_text(json.dumps(nb))
    text = readme(proc / 'index.ipynb')
    site = Pages(config.load(proc), quiet=True)
    site.build()
    docs = site.out
    shutil.copytree(figures.to, docs / 'figures', dirs_exist_ok=True)
    write_sources(site.linked, docs)
    methods_to_classes(docs)
    make_offline(docs)
    if address:
        (docs / 'colab').mkdir()
        for path in (ROOT / 'nbs').glob(ROAD):
            copy = for_colab(json.loads(path.read_text()), address)
            (docs / 'colab' / path.name).write_text(json.dumps(copy, indent=1, ensure_ascii=False))
    (docs / '.nojekyll').touch()
    (docs / 'sitemap.xml').unlink(missing_ok=True)  # holds the time of the build
    made = {
        f'docs/{file.relative_to(docs)}': file.read_bytes()
        for file in sorted(docs.rglob('*'))
        if file.is_file()
    }
    made |= {name: (work / name).read_bytes() for name in ('nbs/sidebar.yml', 'nbs/nbdev.yml')}
    made |= {'README.md': text.encode(), 'docs/made_from.json': ingredients(site.linked)}
    wrong = [warning for warning in site.warnings if not EXPECTED.search(warning)]
    return made, [*wrong, *dead_links(docs), *dead_readme_links(text, docs), *foreign(docs)]


def ingredients(linked):
    "Hashes of what the pages are made from: other versions of the tools may write other bytes."
    files = [
        *(ROOT / 'nbs').glob('[!.]*.*'),
        *(ROOT / 'eosvos').glob('*.py'),
        *(ROOT / name for name in linked),
    ]
    hashes = {
        file.relative_to(ROOT).as_posix(): sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.name not in MADE
    }
    return json.dumps(hashes, indent=0, sort_keys=True).encode()


def differences(made):
    "A line for each file that is missing, left over, or made from what is no longer there."
    for name, data in made.items():
        file = ROOT / name
        if not file.is_file():
            yield f'{name} is missing'
        elif file.name in MADE and file.read_bytes() != data:
            yield f'{name} differs'
    for file in sorted((ROOT / 'docs').rglob('*')):
        if file.is_file() and file.relative_to(ROOT).as_posix() not in made:
            yield f'{file.relative_to(ROOT)} is left over'


def write(made):
    shutil.rmtree(ROOT / 'docs', ignore_errors=True)
    for name, data in made.items():
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_bytes(data)


def main():
    parser = argparse.ArgumentParser(description='Build docs/ and README.md from the notebooks.')
    parser.add_argument(
        '--check', action='store_true', help='write nothing; fail where they are out of date'
    )
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as work:
        made, wrong = build(Path(work).resolve())
    for line in wrong:
        print(f'wrong: {line}')
    stale = list(differences(made)) if check else []
    for line in stale:
        print(f'out of date: {line}')
    if stale:
        print('`make docs` brings them up to date')
    if not check:
        write(made)
    pages = [name for name in made if name.endswith('.html') and name.count('/') == 1]
    size = sum(map(len, made.values())) / 2**20
    print(f'{len(pages)} pages, {size:.1f} MiB {"checked" if check else "written"}')
    return 1 if wrong or stale else 0


if __name__ == '__main__':
    sys.exit(main())
