"Every exercise is whole; each check accepts the answer that is folded away, and refuses others."

import ast
import json
import re
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

NBS = Path(__file__).resolve().parent.parent / 'nbs'
sys.path.append(str(NBS))

from checks import CHECKS  # noqa: E402
from exercises import check, difference, like, number  # noqa: E402
from student import main, without_answers  # noqa: E402

START = re.compile(r'\*\*(\w+\.\d+)\*\* (★{1,3}) (\d+) minutes\. ')
QUIZ = re.compile(r'\*\*Predict, then (run|read on)\.\*\* ')
FOLDED = re.compile(r'^<details><summary>(.*?)</summary>\n\n(.*?)\n\n</details>$', re.M | re.S)
PAGES = sorted(NBS.glob('[0-9]*.ipynb'))


def cells(page, kind):
    "The sources of the cells of one kind."
    notebook = json.loads(page.read_text('utf-8'))
    return [''.join(c['source']) for c in notebook['cells'] if c['cell_type'] == kind]


def exercises(page):
    "What is written of each exercise: its number -> its cell."
    texts = cells(page, 'markdown')
    return {found[1]: text for text in texts if (found := START.match(text))}


def calls(page):
    "The cells that check an answer: the number of the exercise -> cell, the answer's expression."
    found = {}
    for source in cells(page, 'code'):
        for name, answer in re.findall(r"^check\('(.+?)', (.+)\)$", source, re.M):
            assert name not in found, f'{name} is checked twice'
            found[name] = source, answer
    return found


TEXTS = {name: text for page in PAGES for name, text in exercises(page).items()}
CALLS = {name: (page, *call) for page in PAGES for name, call in calls(page).items()}
QUIZZES = [
    (page.stem, text) for page in PAGES for text in cells(page, 'markdown') if QUIZ.match(text)
]


@cache
def names(page):
    "What the page imports, and its own module; to be copied before it is used."
    found = {}
    for source in cells(page, 'code'):
        imports = re.match('(import|from) ', re.sub('^#.*\n', '', source).strip())
        if imports and '#| data' not in source:
            exec(source, found)
    if module := re.search(r'default_exp (\w+)', '\n'.join(cells(page, 'code'))):
        exec(f'from eosvos.{module[1]} import *', found)
    return found


def solution(name):
    "The answer that the Python blocks under `Answer` give."
    page, _, expression = CALLS[name]
    answer = dict(FOLDED.findall(TEXTS[name]))['Answer']
    found = dict(names(page))
    for code in re.findall(r'^```python\n(.*?)^```$', answer, re.M | re.S):
        exec(code, found)
    return eval(expression, found)


# ---- the pages


@pytest.mark.parametrize('page', PAGES, ids=[page.stem for page in PAGES])
def test_exercises_are_numbered(page):
    found, number = exercises(page), page.stem.split('_')[0]
    assert list(found) == [f'{number}.{k + 1}' for k in range(len(found))]
    assert set(calls(page)) <= set(found)
    if number.isdigit():  # a page of the road
        asked = '\n'.join(cells(page, 'markdown')).split('## Exercises')[1]
        assert found and not re.search(r'^\d+\. ', asked, re.M), 'an exercise of the old form'
        assert len(calls(page)) >= len(found) / 2
        assert sum(stem == page.stem for stem, _ in QUIZZES) >= 2


def test_there_is_something_to_do():
    assert len(CALLS) >= 90 and len(QUIZZES) >= 45


@pytest.mark.parametrize('name', TEXTS)
def test_hint_and_answer_are_folded_away(name):
    folded = FOLDED.findall(TEXTS[name])
    assert [summary for summary, _ in folded] == ['Hint', 'Answer']
    assert all(len(text.split()) > 4 for _, text in folded)
    assert TEXTS[name].count('<details>') == TEXTS[name].count('</details>') == 2


@pytest.mark.parametrize('page, text', QUIZZES, ids=[page for page, _ in QUIZZES])
def test_a_quiz_has_one_right_option(page, text):
    folded = FOLDED.findall(text)
    assert [summary[:3] for summary, _ in folded] == ['A. ', 'B. ', 'C. ']
    verdicts = sorted(text.split(' ')[0] for _, text in folded)
    assert verdicts == ['No:', 'No:', 'Right:']
    assert all(len(text.split()) > 8 for _, text in folded), 'say why one might think so'


def test_every_check_is_on_its_page():
    assert set(CALLS) == set(CHECKS)
    assert all(page.stem.startswith(name.split('.')[0] + '_') for name, (page, *_) in CALLS.items())


def test_helpers_of_two_pages_have_two_names():
    named = re.findall(r'^def (\w+)', (NBS / 'checks.py').read_text('utf-8'), re.M)
    assert len(set(named)) == len(named)


# ---- answers


def mutated(result, change):
    "A result, or each of several, changed."
    if isinstance(result, tuple | list):
        return [mutated(part, change) for part in result]
    return change(torch.as_tensor(result).double())


@pytest.mark.parametrize('name', CALLS)
def test_the_answer_is_accepted_and_others_are_not(name):
    judge, right = CHECKS[name], solution(name)
    assert judge(right) == ''
    wrong = [None, 'x', lambda *a: None]
    if callable(right):
        for change in (lambda t: 1.5 * t + 1, lambda t: -t - 1, lambda t: t[None]):
            wrong.append(lambda *a, change=change: mutated(right(*a), change))
    else:
        wrong += [1.5 * right + 1, -right - 1, float('nan')]
    assert all(judge(answer) for answer in wrong)


@pytest.mark.parametrize('name', CALLS)
def test_what_stands_there_is_no_answer(name, capsys):
    page, source, _ = CALLS[name]
    named = set(re.findall(r'^def (\w+)', source, re.M))
    assert not named & set(names(page)), 'the page would show it as a part of the library'
    exec(source, names(page) | {'check': check})
    said = capsys.readouterr().out
    assert re.fullmatch(rf'{name}: not (answered )?yet.*\n', said)
    assert ('...' in source) == ('not answered yet' in said)


# ---- the judges


@pytest.mark.parametrize(
    'answer, said',
    [
        (4, 'right'),
        (8, 'factor of two'),
        (5, 'off by one'),
        (1, 'too little'),
        ('four', "not 'four'"),
        (..., 'not answered yet'),
    ],
)
def test_what_is_said_of_a_number(answer, said, monkeypatch, capsys):
    monkeypatch.setitem(CHECKS, '99.1', number(4, 0))
    check('99.1', answer)
    assert said in capsys.readouterr().out


def test_a_number_may_be_rounded():
    assert number(0.333)(1 / 3) == '' != number(0.333)(0.34)


GRID = torch.arange(6.0).view(2, 3)


@pytest.mark.parametrize(
    'function, said',
    [
        (lambda x: x, ''),
        (lambda x: 3 * x, '3 times'),
        (lambda x: x.T, 'shape (3, 2)'),
        (lambda x: x.flip(0), 'order'),
        (lambda x: x + GRID.eq(4), 'at [1, 1] your function gives 5 instead of 4'),
        (lambda x: None, 'returns nothing'),
        (lambda x: 'x', "not 'x'"),
        (lambda x: x.lost, 'AttributeError'),
        (5, 'a function is asked for'),
    ],
)
def test_what_is_said_of_a_function(function, said):
    answer = like(lambda x: x, lambda g: [GRID])(function)
    assert said in answer and bool(said) == bool(answer)


def test_swapped_axes_and_several_results():
    square = torch.arange(4.0).view(2, 2)
    assert 'swapped' in difference(square.T, square, 1e-4)
    assert difference((1, 2.0), [1, 2.0], 0) == '' != difference((1, 3.0), [1, 2.0], 0)
    assert '2 results' in difference(1, (1, 2), 0)


# ---- the pages without answers


@pytest.mark.parametrize('page', PAGES, ids=[page.stem for page in PAGES])
def test_pages_for_students(page, tmp_path):
    text = without_answers(page.read_text('utf-8'))
    student = tmp_path / page.name
    student.write_text(text, 'utf-8')
    assert '<summary>Answer</summary>' not in text
    assert text.count('<details>') == text.count('</details>')
    assert text.count('<summary>Hint') == page.read_text('utf-8').count('<summary>Hint')
    assert cells(student, 'code') == cells(page, 'code')
    assert list(exercises(student)) == list(exercises(page))
    for source in calls(student).values():
        ast.parse(source[0])


def test_a_folder_for_students(tmp_path):
    main(tmp_path / 'new/student')
    written = {path.name for path in (tmp_path / 'new/student').iterdir()}
    assert written >= {page.name for page in PAGES} | {'checks.py', 'exercises.py', 'lesson.py'}
    assert 'teach.ipynb' not in written, 'it holds the results of the lab'
