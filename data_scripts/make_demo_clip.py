"""Make the demo clip: a red cup crosses a lawn, passes another cup, and is half hidden by a cat.

    python data_scripts/make_demo_clip.py --out eosvos/assets/demo

All pixels come from three CC0 photographs inside scikit-image's wheel. The same call
writes the same files.
"""

import argparse
import math
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy.interpolate import CubicSpline
from skimage import data

WIDTH, HEIGHT, COUNT = 640, 360, 40
SHUTTER = (
    0.5  # share of a frame's time for which the shutter is open: 180 degrees, as film cameras have
)
SUBFRAMES = 5  # instants averaged into one frame, which gives true motion blur
SEED = 0
GLAZE = 0.40  # radians by which the other cup's hue is turned: from brick red to ochre

# Outlines drawn by hand, in pixels of the photograph. GrabCut moves them by a few pixels at most.
CUP = [
    (181, 69),
    (160, 79),
    (140, 92),
    (120, 110),
    (100, 136),
    (86, 165),
    (78, 195),
    (77, 220),
    (79, 245),
    (85, 270),
    (96, 295),
    (112, 320),
    (132, 342),
    (155, 359),
    (185, 373),
    (220, 383),
    (260, 388),
    (300, 389),
    (340, 386),
    (375, 378),
    (404, 365),
    (427, 347),
    (446, 326),
    (461, 303),
    (474, 275),
    (479, 245),
    (479, 215),
    (474, 190),
    (464, 165),
    (450, 141),
    (434, 121),
    (419, 107),
    (424, 84),
    (424, 75),
    (418, 69),
    (408, 67),
    (400, 70),
    (395, 72),
    (385, 58),
    (370, 43),
    (350, 31),
    (325, 23),
    (300, 19),
    (280, 18),
    (255, 21),
    (232, 29),
    (210, 42),
    (195, 54),
]
CAT = [
    (-20, -20),
    (399, -20),
    (399, 0),
    (385, 25),
    (372, 45),
    (360, 68),
    (354, 78),
    (360, 95),
    (364, 115),
    (364, 135),
    (360, 155),
    (352, 172),
    (343, 190),
    (333, 202),
    (322, 215),
    (312, 230),
    (309, 247),
    (300, 262),
    (285, 272),
    (268, 279),
    (262, 320),
    (-20, 320),
]


def cut_out(photo, outline, band, soft):
    "Cut the thing inside `outline` from an RGB photograph: premultiplied RGBA in [0, 1], cropped."
    inside = cv2.fillPoly(np.zeros(photo.shape[:2], np.uint8), [np.array(outline)], 1)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * band + 1,) * 2)
    labels = np.where(inside, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[cv2.dilate(inside, disk) == 0] = cv2.GC_BGD
    labels[cv2.erode(inside, disk, borderValue=1) == 1] = cv2.GC_FGD
    cv2.setRNGSeed(SEED)
    cv2.grabCut(
        photo[..., ::-1].copy(),
        labels,
        None,
        np.zeros((1, 65)),
        np.zeros((1, 65)),
        4,
        cv2.GC_INIT_WITH_MASK,
    )
    matte = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    # Blur and threshold above one half: ragged pixels go, and the matte shrinks past the pixels
    # that the old background has tinted.
    matte = (cv2.GaussianBlur(matte, (0, 0), 4) > 0.65).astype(np.float32)
    matte = cv2.GaussianBlur(matte, (0, 0), soft)[..., None]
    x, y, w, h = cv2.boundingRect((matte > 0.01).astype(np.uint8))
    return (np.dstack([photo / 255 * matte, matte])).astype(np.float32)[y : y + h, x : x + w]


def other_glaze(photo, turn):
    "Turn the hue of the red glaze by `turn` radians; coffee, porcelain and spoon stay as they are."
    lab = cv2.cvtColor((photo / 255).astype(np.float32), cv2.COLOR_RGB2LAB)
    lightness, a, b = cv2.split(lab)
    red = np.clip((1.15 - np.arctan2(b, a)) / 0.15, 0, 1) * np.clip(np.hypot(a, b) / 15, 0, 1)
    cos, sin = math.cos(turn), math.sin(turn)
    turned = np.dstack([lightness, a * cos - b * sin, a * sin + b * cos])
    red = cv2.ellipse(red, (288, 108), (112, 90), 0, 0, 360, 0, -1)  # the inside of the cup
    mixed = lab + cv2.GaussianBlur(red, (0, 0), 1)[..., None] * (turned - lab)
    return np.clip(cv2.cvtColor(mixed, cv2.COLOR_LAB2RGB), 0, 1) * 255


def lawn():
    "The grey photograph of grass in colour: dark parts bluish green, light parts yellowish."
    grey = (
        cv2.resize(data.grass(), None, fx=1.75, fy=1.75, interpolation=cv2.INTER_CUBIC).astype(
            np.float32
        )
        / 255
    )
    dry = cv2.resize(
        np.random.default_rng(SEED).random((5, 5), np.float32),
        grey.shape[::-1],
        interpolation=cv2.INTER_CUBIC,
    )
    stops = [0, 0.25, 0.5, 0.8, 1]
    fresh = [
        np.interp(grey, stops, tone)
        for tone in (
            (0.04, 0.13, 0.30, 0.62, 0.90),
            (0.07, 0.22, 0.42, 0.72, 0.93),
            (0.04, 0.09, 0.14, 0.36, 0.75),
        )
    ]
    straw = [
        np.interp(grey, stops, tone)
        for tone in (
            (0.06, 0.20, 0.42, 0.76, 0.95),
            (0.06, 0.20, 0.40, 0.71, 0.91),
            (0.04, 0.11, 0.20, 0.45, 0.78),
        )
    ]
    mix = np.clip(dry, 0, 1)[..., None] * 0.7
    return cv2.GaussianBlur(
        ((1 - mix) * np.dstack(fresh) + mix * np.dstack(straw)).astype(np.float32), (0, 0), 1.3
    )


def path(knots):
    "A smooth path through `knots`, a list of (frame, value, ...), as a function of the frame."
    knots = np.array(knots, float)
    return CubicSpline(knots[:, 0], knots[:, 1:], bc_type='natural')


# Each path: frame, then centre x, centre y (pixels), scale, angle (degrees), bend (of the size).
PATHS = dict(
    target=path(
        [
            (-1, 505, 225, 0.80, -6, 0.00),
            (10, 395, 222, 0.96, 5, 0.10),
            (20, 250, 238, 1.08, 12, -0.08),
            (27, 158, 222, 1.0, 4, 0.09),
            (34, 225, 190, 0.84, -8, -0.06),
            (41, 320, 180, 0.72, -14, 0.05),
        ]
    ),
    distractor=path(
        [
            (-1, 150, 128, 0.92, 8, 0.05),
            (8, 230, 84, 0.80, -2, -0.07),
            (17, 335, 66, 0.72, -8, 0.06),
            (26, 450, 92, 0.80, -4, 0.03),
            (32, 500, 150, 0.92, 2, -0.06),
            (41, 525, 238, 1.04, 10, 0.06),
        ]
    ),
    cat=path(
        [
            (-1, -330, 185, 1.36, 4, 0),
            (9, -300, 188, 1.36, 2, 0),
            (20, -110, 180, 1.40, -3, 0),
            (27, -58, 186, 1.42, -4, 0),
            (33, -130, 188, 1.40, -1, 0),
            (41, -340, 184, 1.36, 3, 0),
        ]
    ),
)
CAMERA = path(
    [(-1, 330, 420, 1.00), (20, 410, 448, 1.06), (41, 520, 430, 1.12)]
)  # centre in the lawn (pixels), zoom


def shake(time):
    "A hand's tremor, pixels: slow sines with periods that do not divide each other."
    return np.array(
        [
            np.sin(time / 3.1) + 0.6 * np.sin(time / 1.7 + 1),
            np.sin(time / 2.3 + 2) + 0.5 * np.sin(time / 1.3),
        ]
    )


def place(cut, name, time, size):
    "Lay a cut-out `size` pixels wide into the frame where its path has it: premultiplied RGBA."
    x, y, scale, angle, bend = PATHS[name](time)
    shift = shake(time)
    columns, rows = np.meshgrid(np.arange(WIDTH) - x - shift[0], np.arange(HEIGHT) - y - shift[1])
    turn, step = np.deg2rad(angle), scale * size / cut.shape[1]
    u = (np.cos(turn) * columns + np.sin(turn) * rows) / step
    v = (-np.sin(turn) * columns + np.cos(turn) * rows) / step
    # The bend: a bow whose ends rise or sink, and a lean that grows with the square of the height,
    # as of a thing seen from elsewhere.
    half = cut.shape[1] / 2
    u, v = u + bend * 0.8 * (v / half) ** 2 * half, v + bend * ((u / half) ** 2 - 0.3) * half
    maps = [(u + cut.shape[1] / 2).astype(np.float32), (v + cut.shape[0] / 2).astype(np.float32)]
    return cv2.remap(cut, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def lay_over(canvas, layer, drop, dark):
    "Composite a layer over the canvas; its soft shadow falls `drop` pixels to the lower left."
    fall = cv2.warpAffine(
        layer[..., 3], np.float32([[1, 0, -0.6 * drop], [0, 1, drop]]), (WIDTH, HEIGHT)
    )
    canvas = canvas * (1 - dark * cv2.GaussianBlur(fall, (0, 0), 0.5 * drop))[..., None]
    return canvas * (1 - layer[..., 3:]) + layer[..., :3]


def instant(parts, time):
    "One instant: RGB (H, W, 3), the target's whole matte (H, W) and the visible part of it (H, W)."
    x, y, zoom = CAMERA(time)
    shift = shake(time)
    view = np.float32(
        [[zoom, 0, WIDTH / 2 - zoom * x + shift[0]], [0, zoom, HEIGHT / 2 - zoom * y + shift[1]]]
    )
    canvas = cv2.warpAffine(
        parts['lawn'], view, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    distractor, target = (place(parts[name], name, time, 165) for name in ('distractor', 'target'))
    cat = place(parts['cat'], 'cat', time, 400)
    canvas = lay_over(canvas, distractor, 13, 0.85)
    canvas = lay_over(canvas, target, 13, 0.85)
    canvas = lay_over(canvas, cat, 24, 0.45)
    return canvas, target[..., 3], target[..., 3] * (1 - cat[..., 3])


def frame(parts, index):
    "One photographed frame (H, W, 3) uint8 and its ids (H, W) uint8, with enough of the target."
    times = index + SHUTTER * (np.arange(SUBFRAMES) / (SUBFRAMES - 1) - 0.5)
    image, whole, seen = (
        np.mean(list(part), axis=0) for part in zip(*(instant(parts, time) for time in times))
    )
    assert (seen > 0.5).sum() >= 0.45 * (whole > 0.5).sum(), (
        f'frame {index}: less than 45 % of the target is visible'
    )
    sun = np.sin(
        index / 13
    )  # a thin cloud goes and comes back: the light grows brighter and warmer, then less so
    radius = np.hypot(*np.meshgrid(np.linspace(-1, 1, WIDTH), np.linspace(-1, 1, HEIGHT)))
    image = image * (1 + sun * np.array([0.05, 0.03, -0.01])) * (1 - 0.10 * radius**2)[..., None]
    noise = np.random.default_rng([SEED, index]).normal(0, 0.012, image.shape)
    image = cv2.GaussianBlur(image, (0, 0), 0.5) + cv2.GaussianBlur(noise, (0, 0), 0.5)
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), (seen > 0.5).astype(np.uint8)


def palette():
    "The colours of DAVIS, flat: each id's bits are dealt to red, green, blue, the highest first."
    ids = np.arange(256)
    bits = [
        [(ids >> (3 * rank + channel) & 1) << (7 - rank) for rank in range(3)]
        for channel in range(3)
    ]
    return np.stack([np.sum(channel, axis=0) for channel in bits], axis=1).ravel().tolist()


def cut_all():
    "The cut-outs and the lawn in one light: the cups stood under warm lamps, the cat in shade."
    coffee, chelsea = data.coffee(), data.chelsea()
    cups = [
        cut_out(coffee, CUP, 3, 1.2),
        cut_out(other_glaze(coffee, GLAZE).round().astype(np.uint8), CUP, 3, 1.2)[:, ::-1],
    ]
    # Shrunk by whole areas first, as remapping by itself would alias.
    target, distractor = (
        cv2.resize(
            cup * np.float32([0.95, 0.98, 1.04, 1]),
            (190, 190 * cup.shape[0] // cup.shape[1]),
            interpolation=cv2.INTER_AREA,
        )
        for cup in cups
    )
    cat = cut_out(chelsea, CAT, 7, 1.5) * np.float32([1.1, 1.14, 1.08, 1])
    return dict(
        target=target, distractor=distractor, cat=cv2.GaussianBlur(cat, (0, 0), 0.7), lawn=lawn()
    )


def main(out):
    for folder in ('frames', 'masks'):
        (out / folder).mkdir(parents=True, exist_ok=True)
    parts = cut_all()
    for index in range(COUNT):
        image, ids = frame(parts, index)
        Image.fromarray(image).save(out / 'frames' / f'{index:05d}.jpg', quality=88)
        mask = Image.fromarray(ids)
        mask.putpalette(palette())
        mask.save(out / 'masks' / f'{index:05d}.png', optimize=True)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Make the demo clip.')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('eosvos/assets/demo'),
        help='folder that gets frames/ and masks/',
    )
    main(parser.parse_args().out)
