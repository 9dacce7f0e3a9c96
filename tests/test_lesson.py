"Figures that move without a kernel: what is in them, and what a browser makes of them."

import re
import sys
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / 'nbs'))

from lesson import Plane, diagram, moving, show  # noqa: E402


def figure():
    return moving(
        {'λ': [0.1, 0.2], 'T': [1, 2, 3]},
        lambda rate, steps: (f'<circle r="{steps}"/>', f'{rate} < {steps}'),
        start=(0.2, 1),
        alt='a "moving" figure',
    ).data


def test_every_frame_is_there_and_one_is_shown():
    html = figure()
    assert html.count('<circle') == 6
    words = re.findall(r'<div data-frame="(\d)"([^>]*)>([^/]*)</div>', html)
    assert [text for _, _, text in words][3:5] == ['0.2 &lt; 1', '0.2 &lt; 2']
    assert [k for k, hidden, _ in words if not hidden] == ['3']
    assert re.findall(r'<g data-frame="(\d)">', html) == ['3']
    assert 'aria-label="a &quot;moving&quot; figure"' in html
    assert re.findall(r'<output>(.*?)</output>', html) == ['0.2', '1']


def test_a_start_that_no_slider_has():
    with pytest.raises(ValueError):
        moving({'T': [1, 2]}, lambda steps: ('', ''), start=(3,))


def test_points_of_a_plane():
    plane = Plane((0, 10), (0, 5), (142, 92), margin=34)
    assert plane.place(0, 0) == (34, 58) and plane.place(10, 5) == (134, 8)
    assert plane.line([(0, 0), (10, 5)]).startswith('<polyline points="34.0,58.0 134.0,8.0"')


def test_boxes_and_pictures_of_a_plane():
    rows_from_above = Plane((0, 10), (5, 0), (116, 66), margin=8, at=(20, 30))
    assert rows_from_above.place(0, 0) == (28, 38) and rows_from_above.place(10, 5) == (128, 88)
    area = 'x="38.0" y="48.0" width="30.0" height="20.0"'
    box = rows_from_above.box((1, 1, 4, 3), 'red', dash='3 3')
    assert box.startswith(f'<rect {area}') and 'stroke-dasharray="3 3"' in box
    image = torch.linspace(0, 1, 20).reshape(4, 5).expand(3, 4, 5)
    for sharp, error in ((True, 1.01 / 255), (False, 0.1)):
        drawn = rows_from_above.picture(image, sharp)
        assert drawn.startswith('<image x="28.0" y="38.0" width="100.0" height="50.0"')
        data = b64decode(re.search('base64,([^"]*)', drawn)[1])
        found = pil_to_tensor(Image.open(BytesIO(data))) / 255
        torch.testing.assert_close(found, image, rtol=0, atol=error)


def test_arrows_run_from_edge_to_edge():
    boxes = {'a': (0, 0, 50, 20, ['a']), 'b': (100, 0, 50, 20, ['b', '<c>'])}
    html = diagram(boxes, [('a', 'b')], (160, 30), 'a leads to b').data
    assert 'M52.0 10.0L90.0 10.0' in html and '97.0,10.0' in html and '&lt;c&gt;' in html


def test_sliders_in_a_browser(browser, tmp_path):
    page = tmp_path / 'figure.html'
    page.write_text(f'<meta charset="utf-8">{figure()}', 'utf-8')
    tab, problems = browser.new_page(), []
    tab.on('console', lambda message: problems.append(message.text))
    tab.on('pageerror', lambda error: problems.append(str(error)))
    tab.goto(page.as_uri())

    def shown():
        return [words for words in tab.locator('div[data-frame]:visible').all_inner_texts()]

    assert shown() == ['0.2 < 1']
    tab.locator('input').nth(1).focus()
    tab.keyboard.press('End')
    tab.locator('input').nth(0).focus()
    tab.keyboard.press('ArrowLeft')
    assert shown() == ['0.1 < 3'] and problems == []
    assert tab.locator('output').all_inner_texts() == ['0.1', '3']
    tab.close()


def test_show_draws_every_kind():
    image, masks = torch.rand(3, 20, 30, requires_grad=True), torch.rand(2, 20, 30) > 0.5
    boxes = torch.tensor([[1.0, 2, 9, 8], [3, 4, 20, 19]])
    ax = show(image, masks, boxes, title='both', labels=['a', 'b'], dashed=boxes[:1])
    assert len(ax.patches) == 3 and [text.get_text() for text in ax.texts] == ['a', 'b']
    assert ax.patches[1].get_xy() == (1, 2) and ax.patches[1].get_width() == 8
    assert show(image, masks[0].long(), ax=ax) is ax
    show(image, masks[:0], boxes[:0])
    plt.close('all')
