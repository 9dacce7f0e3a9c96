"Terms are in order and lead to where they are defined; a page has one name wherever it is linked."

import json
import re
from pathlib import Path

import pytest
from smalldocs.markdown import pandoc_id

NOTEBOOKS = sorted((Path(__file__).parent.parent / 'nbs').glob('*.ipynb'))
LINK = re.compile(r'\[([^\]]+)\]\((\w+\.ipynb)(?:#([^)]*))?\)')
TERM = re.compile(r'^<a id="([\w-]+)"></a>\*\*(.+?)\*\*', re.M)


def text(path):
    "All that the Markdown cells of a notebook say."
    cells = json.loads(path.read_text())['cells']
    return '\n\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')


TEXTS = {path.name: text(path) for path in NOTEBOOKS}
TITLES = {name: re.match('# (.+)', said)[1] for name, said in TEXTS.items()}
GLOSSARY = TEXTS['glossary.ipynb']


def anchors(name):
    "The places in a page that a link can lead to: its headings and the anchors set by hand."
    headings = re.findall(r'^#{2,4} (.+?)\s*$', TEXTS[name], re.M)
    return {pandoc_id(heading) for heading in headings} | set(
        re.findall(r'<a id="([^"]+)">', TEXTS[name])
    )


def short(name):
    "A title as it is compared: `the study` is `The study`, `the small model` is `A small model`."
    return re.sub('^(the|a) ', '', ' '.join(name.lower().split()))


@pytest.mark.parametrize('page', TEXTS)
def test_links_lead_to_a_heading(page):
    for label, name, anchor in LINK.findall(TEXTS[page]):
        assert name in TEXTS, f'{label}: there is no {name}'
        if anchor:
            assert anchor in anchors(name), f'{label}: {name} has no heading #{anchor}'


def test_terms_are_in_alphabetical_order():
    terms = [term.replace('e-OSVOS', 'e-osvos') for _, term in TERM.findall(GLOSSARY)]
    keys = [re.sub('[^a-z0-9 ]', '', term.lower().replace('á', 'a')) for term in terms]
    assert len(keys) > 50 and keys == sorted(keys)
    assert len(set(keys)) == len(keys)


def test_terms_stand_under_their_letter():
    for letter, entries in re.findall(r'^## (\w)\n(.*?)(?=^## |\Z)', GLOSSARY, re.M | re.S):
        found = TERM.findall(entries)
        assert found, f'no term under {letter}'
        assert all(term[0].upper() == letter for _, term in found), letter


def test_every_term_says_where_it_is_defined():
    "A few words, and a link to another page."
    for entry in re.split(r'\n\n+', GLOSSARY):
        if found := TERM.match(entry):
            links = LINK.findall(entry)
            assert any(name != 'glossary.ipynb' for _, name, _ in links), f'{found[2]}: no link'
            assert len(entry.split()) < 90, f'{found[2]} is too long for a glossary'


@pytest.mark.parametrize('page', list(TEXTS))
def test_a_page_is_called_by_its_title(page):
    for label, name, anchor in LINK.findall(TEXTS[page]):
        if anchor or name == 'index.ipynb' or label.startswith('`'):
            continue  # a link to a part may name the part
        assert short(label) == short(TITLES[name]), f'{label!r} is {TITLES[name]!r}'
