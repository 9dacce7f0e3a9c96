"""Make slides from pages.

    python nbs/_slides.py slides/lecture_1.html 00_method 12_fine_tuning

Each section of a page becomes a slide with its heading, its first two sentences, its formulas and
tables, what its cells print, and a picture; further pictures get slides of their own. Only stored
outputs are shown, no cell is run, and the slides need no network. Arrow keys turn them.
"""

import argparse
import html
import json
import os
import re
import sys
from pathlib import Path

from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

NBS = Path(__file__).resolve().parent
SKIPPED = 'Imports', 'Exercises'
LINES = 12  # what prints more stays on the page
PICTURES = 'image/png', 'image/jpeg'
SENTENCES = re.compile(r'(.+?[.:?!]\)?(?=\s+[A-Z"(*`$]|\s*$)){1,2}', re.S)  # the first two
TEX = {True: r'\[{}\]', False: r'\({}\)'}  # a formula on a line of its own, or within a line
PAGE = r"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>TITLE</title>
<meta name="viewport" content="width=device-width">
<link rel="stylesheet" href="KATEX/katex.min.css">
<script defer src="KATEX/katex.min.js"></script>
<script defer src="KATEX/auto-render.min.js" onload="renderMathInElement(document.body)"></script>
<style>
:root { color-scheme: light dark; font: 1.6rem/1.4 system-ui, sans-serif; }
html { scroll-snap-type: y mandatory; }
body { margin: 0; }
section { box-sizing: border-box; min-height: 100vh; padding: 3vh 6vw; scroll-snap-align: start;
  display: flex; flex-direction: column; justify-content: center; break-after: page; }
h1, h2 { color: light-dark(#1a5a96, #8fc1ee); margin: 0 0 2vh; }
img { max-width: 100%; max-height: 60vh; min-height: 30vh; object-fit: contain; background: #fff; }
figure { margin: 0; font-size: 1.1rem; }
figure > svg { width: 100%; max-height: 45vh; }
label { display: inline-block; margin-right: 1.5rem; }
@media print { label { display: none; } }
pre { font-size: 1rem; white-space: pre-wrap; padding-left: 1rem;
  border-left: 3px solid lightsalmon; }
table { font-size: 1.1rem; border-collapse: collapse; }
td, th { padding: .2rem .8rem; border-bottom: 1px solid gray; text-align: left; }
</style></head><body>
SLIDES
<script>
addEventListener("keydown", event => {
  const step = { ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1 }[event.key];
  if (!step || event.target.matches("input")) return;  // these keys move a slider, too
  event.preventDefault();
  const all = [...document.querySelectorAll("section")];
  const at = all.findLastIndex(slide => slide.getBoundingClientRect().top < 9);
  all[Math.min(Math.max(at + step, 0), all.length - 1)].scrollIntoView();
});
</script>
</body></html>
"""


def tex(formula, options):
    "A formula as KaTeX looks for it."
    return html.escape(TEX[options['display_mode']].format(formula))


MARKDOWN = MarkdownIt('commonmark').enable('table').use(dollarmath_plugin, renderer=tex)


def sections(notebook):
    "Heading, paragraphs and outputs of each section of a page."
    found = []
    for cell in notebook['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'code':
            words = re.match('#\\| fig-alt: "(.*)"', source)
            alt = html.escape(words[1]) if words else ''
            found[-1][2].extend(output | dict(alt=alt) for output in cell['outputs'])
            continue
        for paragraph in filter(None, map(str.strip, re.split(r'\n\s*\n', source))):
            heading, _, rest = paragraph.partition('\n')
            if not re.match('#{1,3} ', heading):
                found[-1][1].append(paragraph)
                continue
            found.append((heading.lstrip('# '), [rest] if rest else [], []))
    return [section for section in found if section[0] not in SKIPPED]


def words(heading, paragraphs):
    "What a slide says, as Markdown: all of a summary; else two sentences, formulas and tables."
    if heading == 'Summary':
        return paragraphs
    subtitle = [p for p in paragraphs if p[0] == '>']
    plain = [p for p in paragraphs if p[0] not in '>$|<`-'][:1]
    said = [found[0] if (found := SENTENCES.match(p)) else p for p in plain]
    return subtitle + said + [p for p in paragraphs if p.startswith(('$$', '|'))]


def pieces(outputs):
    "What cells have printed, and the pictures that they have drawn, as HTML."
    printed, pictures = [], []
    for output in outputs:
        data = output.get('data', {})
        said = ''.join(output.get('text', '')).strip('\n')
        if kind := next((kind for kind in PICTURES if kind in data), None):
            pixels = ''.join(data[kind]).replace('\n', '')
            src = f'data:{kind};base64,{pixels}'
            pictures.append(f'<img alt="{output["alt"]}" src="{src}">')
        elif '<figure class="lesson">' in (rich := ''.join(data.get('text/html', ''))):
            pictures.append(rich)
        elif 'text/markdown' in data:
            printed.append(MARKDOWN.render(''.join(data['text/markdown'])))
        elif said and output.get('name') == 'stdout' and said.count('\n') < LINES:
            printed.append(f'<pre>{html.escape(said)}</pre>')
    return printed, pictures


def slides(notebook):
    "The slides of a page, each as HTML."
    made = []
    for k, (heading, paragraphs, outputs) in enumerate(sections(notebook)):
        title = MARKDOWN.renderInline(heading)
        title = f'<h1>{title}</h1>' if k == 0 else f'<h2>{title}</h2>'
        printed, pictures = pieces(outputs)
        text = MARKDOWN.render('\n\n'.join(words(heading, paragraphs)))
        text = re.sub(r'<a [^>]*>|</a>', '', text)  # a slide has nowhere to lead to
        made.append(''.join([title, text, *printed, *pictures[:1]]))
        made += [title + picture for picture in pictures[1:]]
    return made


def main():
    parser = argparse.ArgumentParser(description='Make slides from pages.')
    parser.add_argument('out', type=Path, help='the file to write, such as slides/lecture_1.html')
    parser.add_argument('pages', nargs='+', help='names of notebooks, such as 00_method')
    arguments = parser.parse_args()
    files = [NBS / f'{page}.ipynb' for page in arguments.pages]
    if lost := [file.stem for file in files if not file.exists()]:
        sys.exit(f'expected names of pages, got {", ".join(lost)}')
    made = [slide for file in files for slide in slides(json.loads(file.read_text()))]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    katex = Path(os.path.relpath(NBS / '_katex', arguments.out.parent.resolve())).as_posix()
    body = '\n'.join(f'<section>{slide}</section>' for slide in made)
    page = PAGE.replace('KATEX', katex).replace('TITLE', arguments.out.stem)
    arguments.out.write_text(page.replace('SLIDES', body), encoding='utf-8')
    print(f'{len(made)} slides in {arguments.out}')


if __name__ == '__main__':
    main()
