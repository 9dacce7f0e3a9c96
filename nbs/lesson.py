"What lessons share and the library need not know: pictures, diagrams, figures that move."

from base64 import b64encode
from html import escape
from io import BytesIO
from itertools import product
from math import hypot

import matplotlib.pyplot as plt
from IPython.display import HTML
from matplotlib.axes import Axes
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from eosvos.core import PALETTE, overlay

COLOURS = dict(  # readable on white and on black
    blue='#3b8ec2',
    orange='#f08c1a',
    red='#e0524f',
    green='#2fa866',
    violet='#9c7bd0',
    gray='#8a8f98',
)
# What a slider does when it is moved. It stands in the element itself: no script has to be loaded,
# and Jupyter, VS Code and a page on the disk run it alike.
_SLIDE = (
    "const f=this.closest('figure');let k=0;"
    "for(const s of f.querySelectorAll('input')){"
    "const v=s.dataset.values.split('|')[s.value];k=k*(+s.max+1)+ +s.value;"
    "s.nextElementSibling.value=v;s.setAttribute('aria-valuetext',v)}"
    "for(const e of f.querySelectorAll('[data-frame]'))"
    "e.style.display=e.dataset.frame==k?'':'none'"
)


def as_markdown(
    header: list[str],
    rows: list[list[str]],
) -> str:
    "A table in Markdown: text to the left, numbers to the right."
    line = ['---', *['---:'] * (len(header) - 1)]
    return '\n'.join(f'| {" | ".join(row)} |' for row in [header, line, *rows])


def percent(
    result: dict,  # of a benchmark with scores
) -> dict[str, float]:  # J, J-Recall, J-Decay, the same of F, and J&F in percent; FPS
    "The numbers of a result. FPS count a frame once for each object, as the paper's do."
    scores = {key.removesuffix('-Mean'): 100 * score for key, score in result['scores'].items()}
    return scores | {'FPS': result['fps_objects']}


def show(
    image: Tensor,  # (3, H, W) RGB in [0, 1]
    masks: Tensor | None = None,  # (N, H, W) masks, or (H, W) object ids
    boxes: Tensor | None = None,  # (N, 4) xyxy pixels, drawn solid ("after")
    ax: Axes | None = None,  # where to draw; a new small figure if there is none
    title: str | None = None,  # text above the image
    labels: list[str] | None = None,  # a text for each of `boxes`
    dashed: Tensor | None = None,  # (M, 4) xyxy pixels, drawn dashed ("before")
) -> Axes:  # the axes drawn on
    "Draw an image with its masks and boxes."
    ax = ax or plt.subplots(figsize=(4, 2.5), dpi=80, layout='tight')[1]
    image = image.detach().cpu()
    if masks is not None and masks.dim() == 2:
        image = overlay(image, masks)
    elif masks is not None:  # they may overlap: paint one after the other
        for k, mask in enumerate(masks, 1):
            image = overlay(image, (mask != 0) * k)
    H, W = image.shape[1:]
    # whole numbers are the edges of pixels, not centres
    ax.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), extent=(0, W, H, 0))
    ax.set(title=title, xticks=[], yticks=[])
    for group, style in ((dashed, '--'), (boxes, '-')):
        for k, (x1, y1, x2, y2) in enumerate([] if group is None else group.tolist()):
            colour = (PALETTE[k % 255 + 1] / 255).tolist()
            box = (x1, y1), x2 - x1, y2 - y1
            ax.add_patch(plt.Rectangle(*box, fill=False, color=colour, ls=style, lw=1.5))
            if labels and group is boxes:
                ax.text(x1, y1, labels[k], color='w', size=7, backgroundcolor=colour)
    return ax


class Plane:
    "Shapes as SVG, in the units of two axes; y grows upwards, or downwards from high to low."

    def __init__(self, x, y, size, margin=34, at=(0, 0)):
        (self.x1, self.x2), (self.y1, self.y2), self.size, self.margin = x, y, size, margin
        self.at = at  # the upper left corner, pixels

    def place(self, x, y):
        "Where a point lies, pixels."
        width, height = (side - self.margin - 8 for side in self.size)
        right = (x - self.x1) / (self.x2 - self.x1) * width
        up = (y - self.y1) / (self.y2 - self.y1) * height
        return self.at[0] + self.margin + right, self.at[1] + 8 + height - up

    def axes(self, x_label, y_label, x_ticks, y_ticks):
        "The frame, ticks and names of the axes."
        (left, bottom), (right, top) = self.place(self.x1, self.y1), self.place(self.x2, self.y2)
        parts = [
            f'<path d="M{left:.1f} {top:.1f}V{bottom:.1f}H{right:.1f}" fill="none" '
            'stroke="currentColor" stroke-opacity=".6"/>'
        ]
        for x in x_ticks:
            parts.append(_text(self.place(x, self.y1)[0], bottom + 13, f'{x:g}', 10))
        for y in y_ticks:
            parts.append(_text(left - 4, self.place(self.x1, y)[1] + 3, f'{y:g}', 10, 'end'))
        parts.append(_text(right, bottom + 27, x_label, 12, 'end'))
        parts.append(_text(self.at[0] + 6, top + 6, y_label, 12, 'start'))
        return ''.join(parts)

    def line(self, points, colour='currentColor', width=1.6, dash='', dots=0):
        "A line through points, with a dot of this radius at each."
        places = [self.place(*point) for point in points]
        drawn = ' '.join(f'{x:.1f},{y:.1f}' for x, y in places)
        dashed = f' stroke-dasharray="{dash}"' if dash else ''
        line = f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="{width}"'
        circles = [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{dots}" fill="{colour}"/>'
            for x, y in places
            if dots
        ]
        return f'{line}{dashed}/>{"".join(circles)}'

    def arrow(self, start, end, colour):
        "An arrow from point to point."
        return _arrow(*self.place(*start), *self.place(*end), colour)

    def text(self, point, text, colour='currentColor', size=12, anchor='start', shift=(0, 0)):
        "Words at a point, moved by some pixels."
        x, y = self.place(*point)
        return _text(x + shift[0], y + shift[1], text, size, anchor, colour)

    def ellipse(self, centre, radii, colour, dash=''):
        "A contour of a quadratic bowl."
        x, y = self.place(*centre)
        right, up = self.place(centre[0] + radii[0], centre[1] + radii[1])
        dashed = f' stroke-dasharray="{dash}"' if dash else ''
        shape = f'cx="{x:.1f}" cy="{y:.1f}" rx="{right - x:.1f}" ry="{y - up:.1f}"'
        return f'<ellipse {shape} fill="none" stroke="{colour}" stroke-width=".8"{dashed}/>'

    def box(self, corners, colour, width=2, dash='', fill=0):
        "A box xyxy, filled with this share of its colour."
        dashed = f' stroke-dasharray="{dash}"' if dash else ''
        paint = f'fill="{colour}" fill-opacity="{fill}" stroke="{colour}" stroke-width="{width}"'
        return f'<rect {self._area(*corners)[0]} {paint}{dashed}/>'

    def picture(self, image, sharp=False):
        "An image (3, H, W) in [0, 1] all over the plane; its pixels can be seen where it is sharp."
        file, kind = BytesIO(), 'png' if sharp else 'jpeg'
        to_pil_image(image.clamp(0, 1)).save(file, kind)
        data = f'data:image/{kind};base64,{b64encode(file.getvalue()).decode()}'
        pixels = ' style="image-rendering:pixelated"' if sharp else ''
        return f'<image {self._area()[0]} preserveAspectRatio="none"{pixels} href="{data}"/>'

    def clipped(self, shapes):
        "The shapes, cut off at the axes."
        area, view = self._area()
        return f'<svg {area} viewBox="{view}">{shapes}</svg>'

    def _area(self, *corners):
        "The area of a box xyxy, or the whole plane: as attributes of a shape, and as a view."
        x1, y1, x2, y2 = corners or (self.x1, self.y1, self.x2, self.y2)
        xs, ys = zip(self.place(x1, y1), self.place(x2, y2), strict=True)
        left, top = f'{min(xs):.1f}', f'{min(ys):.1f}'
        width, height = f'{max(xs) - min(xs):.1f}', f'{max(ys) - min(ys):.1f}'
        area = f'x="{left}" y="{top}" width="{width}" height="{height}"'
        return area, f'{left} {top} {width} {height}'


def _text(x, y, text, size=12, anchor='middle', colour='currentColor', weight=''):
    bold = f' font-weight="{weight}"' if weight else ''
    if colour != 'currentColor':  # alone it is too pale for words, on white or on black
        colour = f'color-mix(in srgb, {colour} 50%, currentColor)'
    style = f'font-size="{size}" text-anchor="{anchor}" fill="{colour}"{bold}'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _arrow(x1, y1, x2, y2, colour='currentColor', dash='', head=7):
    length = hypot(x2 - x1, y2 - y1)
    if length < 0.5:
        return f'<circle cx="{x1:.1f}" cy="{y1:.1f}" r="2.5" fill="{colour}"/>'
    dx, dy = (x2 - x1) / length, (y2 - y1) / length
    head = min(head, length)
    bx, by = x2 - head * dx, y2 - head * dy
    wing = 0.45 * head
    points = f'{x2:.1f},{y2:.1f} {bx - wing * dy:.1f},{by + wing * dx:.1f} '
    points += f'{bx + wing * dy:.1f},{by - wing * dx:.1f}'
    dashed = f' stroke-dasharray="{dash}"' if dash else ''
    line = f'<path d="M{x1:.1f} {y1:.1f}L{bx:.1f} {by:.1f}" stroke="{colour}" stroke-width="2"'
    return f'{line}{dashed} fill="none"/><polygon points="{points}" fill="{colour}"/>'


def _svg(shapes, size, alt):
    width, height = size
    view = f'viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{escape(alt)}"'
    style = 'style="max-width:100%;height:auto" font-family="sans-serif"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {view} {style}>{shapes}</svg>'


def _figure(picture, caption, more=''):
    words = f'<figcaption>{escape(caption)}</figcaption>' if caption else ''
    return HTML(f'<figure class="lesson">{picture}{more}{words}</figure>')


def moving(
    sliders,  # what can be moved, and its values: name -> list
    draw,  # a value of each -> what is drawn in SVG, and a line of words
    start,  # the value of each that is shown first, and in print
    still='',  # SVG of what never moves
    size=(640, 360),  # width, height
    alt='',  # the picture in words
    caption='',
):
    "A figure with sliders that works without a kernel: all pictures are in it, and one is shown."
    names, values = list(sliders), list(sliders.values())
    shapes, words = [], []
    for k, chosen in enumerate(product(*values)):
        svg, line = draw(*chosen)
        hidden = '' if chosen == tuple(start) else ' style="display:none"'
        shapes.append(f'<g data-frame="{k}"{hidden}>{svg}</g>')
        words.append(f'<div data-frame="{k}"{hidden}>{escape(line)}</div>')
    controls = []
    for name, options, value in zip(names, values, start, strict=True):
        labels = escape('|'.join(map(str, options)))
        at = f'max="{len(options) - 1}" value="{options.index(value)}" data-values="{labels}"'
        controls.append(
            f'<label>{escape(name)} <input type="range" min="0" {at} autocomplete="off" '
            f'aria-valuetext="{value}" oninput="{_SLIDE}"> <output>{value}</output></label> '
        )
    more = f'<div>{"".join(controls)}</div><div aria-live="polite">{"".join(words)}</div>'
    return _figure(_svg(still + ''.join(shapes), size, alt), caption, more)


def diagram(
    boxes,  # name -> (x, y, width, height, lines of text), or with a colour of COLOURS at the end
    arrows,  # (from, to), or with a word at the arrow, or (from, to, word, 'dashed')
    size,  # width, height
    alt,  # the picture in words
    more='',  # further SVG
    caption='',
):
    "Boxes with text, and arrows from the edge of one to the edge of another."
    shapes = [more]
    for x, y, width, height, lines, *colour in boxes.values():
        edge = COLOURS[colour[0]] if colour else 'currentColor'
        fill = f'fill="{edge}" fill-opacity="{0.14 if colour else 0.04}"'
        shape = f'x="{x}" y="{y}" width="{width}" height="{height}" rx="6" {fill}'
        shapes.append(f'<rect {shape} stroke="{edge}" stroke-width="1.3"/>')
        top = y + height / 2 - 7.5 * (len(lines) - 1) + 4
        for k, line in enumerate(lines):
            weight = 'bold' if k == 0 and len(lines) > 1 else ''
            shapes.append(_text(x + width / 2, top + 15 * k, line, 12, weight=weight))
    for start, end, *words in arrows:
        dash = '5 3' if 'dashed' in words else ''
        x1, y1, x2, y2 = _between(boxes[start], boxes[end])
        shapes.append(_arrow(x1, y1, x2, y2, COLOURS['gray'], dash))
        if words and words[0]:
            upright = abs(x2 - x1) < abs(y2 - y1)
            x, y = (x1 + x2) / 2, (y1 + y2) / 2
            if upright:
                shapes.append(_text(x + 6, y + 4, words[0], 11, 'start'))
            else:
                shapes.append(_text(x, y - 6, words[0], 11))
    return _figure(_svg(''.join(shapes), size, alt), caption)


def _between(one, other):
    "The ends of an arrow between two boxes: straight where the boxes face each other."
    ends = []
    for axis in (0, 1):
        low = max(one[axis], other[axis])
        high = min(one[axis] + one[2 + axis], other[axis] + other[2 + axis])
        if low < high:
            ends.append(((low + high) / 2,) * 2)
        elif one[axis] < other[axis]:
            ends.append((one[axis] + one[2 + axis] + 2, other[axis] - 3))
        else:
            ends.append((one[axis] - 2, other[axis] + other[2 + axis] + 3))
    (x1, x2), (y1, y2) = ends
    return x1, y1, x2, y2


# What comes out of each part for the demo frame, worked on at 128 x 224 by the paper's model:
# notebook 09 compares them with what its modules give.
SHAPES = {
    'image': [(3, 360, 640)],
    'batch': [(1, 3, 128, 224)],
    'body': [(1, 256, 32, 56), (1, 512, 16, 28), (1, 1024, 8, 14), (1, 2048, 4, 7)],
    'pyramid': [(1, 256, *size) for size in ((32, 56), (16, 28), (8, 14), (4, 7), (2, 4))],
    'boxes': [(2,), (2, 4)],  # of each proposal: scores of two classes, and a box for each
    'box features': [(256, 7, 7)],  # of each proposal
    'mask features': [(256, 28, 28)],  # of each detection
    'masks': [(2, 56, 56)],  # of each detection: one for each class
}


def detector(
    *here,  # which parts the page builds: 'body', 'pyramid', 'rpn', 'align', 'boxes', 'masks'
):
    "Mask R-CNN, with the shapes that the demo frame has on its way through the paper's model."

    def shape(name, k=0):
        return ' × '.join(map(str, SHAPES[name][k]))

    ends = [shape('pyramid'), '…', shape('pyramid', 4)]
    crops = [f'N × {shape("box features")}', 'and, for masks,', f'D × {shape("mask features")}']
    parts = {
        'image': (10, 70, 130, 60, ['Frame', shape('image')]),
        'body': (180, 60, 150, 80, ['Body: ResNet-50', shape('body'), '…', shape('body', 3)]),
        'pyramid': (370, 60, 150, 80, ['Feature pyramid', *ends]),
        'rpn': (370, 190, 150, 60, ['Proposals (RPN)', 'N boxes that may', 'hold an object']),
        'align': (560, 60, 150, 80, ['RoIAlign', *crops]),
        'boxes': (560, 190, 150, 60, ['Box head', 'N scores and boxes', 'of which D remain']),
        'masks': (750, 60, 140, 80, ['Mask head', f'D × {shape("masks")}', 'D × 360 × 640']),
    }
    boxes = {name: (*part, 'orange') if name in here else part for name, part in parts.items()}
    arrows = [
        ('image', 'body'),
        ('body', 'pyramid'),
        ('pyramid', 'rpn'),
        ('pyramid', 'align'),
        ('rpn', 'align'),
        ('align', 'boxes'),
        ('align', 'masks'),
    ]
    alt = 'Mask R-CNN: frame, body, feature pyramid; from it the proposals, RoIAlign, then the box '
    alt += 'head, and for the boxes that remain the mask head.'
    return diagram(boxes, arrows, (900, 265), alt, caption='Orange: what this page builds.')
