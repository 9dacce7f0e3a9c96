"Slides show what their pages say, and need no network."

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / 'nbs/_slides.py'
spec = importlib.util.spec_from_file_location('_slides', SCRIPT)
_slides = importlib.util.module_from_spec(spec)
spec.loader.exec_module(_slides)


def markdown(source):
    return dict(cell_type='markdown', source=source)


def code(*outputs):
    return dict(cell_type='code', source='#| fig-alt: "Two < three"\n1 + 1', outputs=list(outputs))


def picture(pixels):
    return dict(output_type='display_data', data={'image/png': pixels})


def printed(text, name='stdout'):
    return dict(output_type='stream', name=name, text=text)


def test_a_section_is_a_slide_and_a_second_picture_another():
    page = [
        markdown('# Title\n\n> In short'),
        markdown('Of `a < b` we say [this](x.ipynb). And this. But not this.'),
        markdown('## Part\nOne $a_1 < b_2$.\n\n$$c_3 & d$$\n\n|a|\n|-|\n|1|\n\n### Within\n\nTwo'),
        code(printed('said\n'), printed('grumbled\n', 'stderr'), printed('line\n' * 40)),
        code(picture('QQ\n=='), picture('Qg==')),
        markdown('## Summary\n\n- First\n\n- Second\n\n## Exercises\n\n1. Never shown'),
    ]
    first, part, within, more, last = _slides.slides(dict(cells=page))
    assert first.startswith('<h1>Title</h1>') and 'In short' in first
    assert 'a &lt; b' in first and 'say this. And this.' in first and 'not this' not in first
    assert r'\(a_1 &lt; b_2\)' in part and r'\[c_3 &amp; d\]' in part and '<td>1</td>' in part
    assert '<pre>said</pre>' in within and 'grumbled' not in within and 'line' not in within
    assert 'base64,QQ=="' in within and more == (
        '<h2>Within</h2><img alt="Two &lt; three" src="data:image/png;base64,Qg==">'
    )
    assert 'First' in last and 'Second' in last and 'Never' not in last


def test_what_moves_on_a_page_moves_on_its_slide(browser, tmp_path):
    out = tmp_path / 'boxes.html'
    subprocess.run([sys.executable, SCRIPT, out, '03_boxes'], check=True, capture_output=True)
    tab = browser.new_page()
    tab.goto(out.as_uri())
    slider = tab.locator('figure input').first
    words = slider.locator('xpath=ancestor::figure').locator('div[data-frame]:visible')
    before = words.inner_text()
    slider.press('ArrowRight')
    assert words.count() == 1 and words.inner_text() != before
    slider.evaluate('e => e.blur()')
    tab.keyboard.press('ArrowRight')  # which turns the slide
    tab.wait_for_function('scrollY > 0')
    tab.close()


def lectures():
    "The commands that the page for teachers gives."
    cells = json.loads((ROOT / 'nbs/teach.ipynb').read_text())['cells']
    text = '\n'.join(''.join(cell['source']) for cell in cells)
    return re.findall(r'python nbs/_slides\.py (slides/\S+)((?: \w+)+)', text)


def test_the_four_lectures_can_be_made(tmp_path):
    assert len(lectures()) == 4
    for out, pages in lectures():
        command = [sys.executable, SCRIPT, tmp_path / out, *pages.split()]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        made = (tmp_path / out).read_text()
        assert run.stdout.startswith(f'{made.count("<section>")} slides') and '<img' in made
        for address in re.findall(r'(?:src|href)="([^"#]+)', made):
            assert address.startswith('data:image/') or (tmp_path / 'slides' / address).is_file()


def test_an_unknown_page_is_named(tmp_path):
    command = [sys.executable, SCRIPT, tmp_path / 'a.html', '00_method', '99_nothing']
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.strip() == 'expected names of pages, got 99_nothing'
    assert list(tmp_path.iterdir()) == []
