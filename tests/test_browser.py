"The pages of the book in a real browser: on a phone, in the dark, on paper, and without a network."

import re
from collections import defaultdict
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / 'docs'
PAGES = sorted(path.name for path in DOCS.glob('*.html'))
PHONE, DESK = dict(width=390, height=844), dict(width=1300, height=900)
# Each check gives a line for whatever is wrong on the page.
WITHOUT_WORDS = """() => {
    const pictures = [...document.querySelectorAll('main img, main svg')];
    const words = (e) => (e.alt ?? e.getAttribute('alt') ?? e.getAttribute('aria-label') ?? '');
    const poor = (text) => text.trim().length < 12 || /\\.(png|jpe?g|svg)$/.test(text.trim());
    const drawn = (e) => !e.closest('.katex') && !e.parentElement.closest('svg');
    const sliders = [...document.querySelectorAll('main input')];
    return [
        ...pictures.filter((e) => drawn(e) && poor(words(e))).map((e) => e.outerHTML.slice(0, 90)),
        ...sliders.filter((e) => !e.labels.length && !e.ariaLabel).map((e) => e.outerHTML),
    ];
}"""
TOO_WIDE = """() => {
    const boxed = (e) => {
        for (let box = e.parentElement; box && box.tagName != 'MAIN'; box = box.parentElement)
            if (['auto', 'scroll'].includes(getComputedStyle(box).overflowX)) return true;
        return false;
    };
    const wide = (e) => e.getBoundingClientRect().right > innerWidth + 1 && !boxed(e);
    const all = [...document.querySelectorAll('main *')].filter((e) => !e.closest('.katex'));
    return [
        ...(document.documentElement.scrollWidth > innerWidth ? ['the page itself'] : []),
        ...all.filter(wide).map((e) => e.outerHTML.slice(0, 90)),
    ];
}"""
# WCAG 2: (L1 + 0.05) / (L2 + 0.05) for the relative luminances of text and background
PALE = """() => {
    const context = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const read = new Map();
    const rgba = (colour) => {
        if (!read.has(colour)) {
            context.clearRect(0, 0, 1, 1);
            context.fillStyle = colour;
            context.fillRect(0, 0, 1, 1);
            const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
            read.set(colour, [r, g, b, a / 255]);
        }
        return read.get(colour);
    };
    const over = ([r, g, b, a], below) =>
        [r, g, b].map((value, k) => a * value + (1 - a) * below[k]);
    const known = new Map();
    const behind = (e) => {
        if (!e) return [255, 255, 255];
        if (!known.has(e))
            known.set(e, over(rgba(getComputedStyle(e).backgroundColor), behind(e.parentElement)));
        return known.get(e);
    };
    const faded = (e) => e ? getComputedStyle(e).opacity * faded(e.parentElement) : 1;
    const light = (colour) => colour
        .map((v) => v / 255)
        .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
    const contrast = (e, paint, opacity = 1) => {
        const [r, g, b, a] = rgba(paint), below = behind(e);
        const [x, y] = [over([r, g, b, a * opacity * faded(e)], below), below].map(light);
        return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
    };
    const seen = (e) => e.getClientRects().length && faded(e);
    const says = (e) => [...e.childNodes].some((n) => n.nodeType == 3 && n.data.trim());
    const wrong = new Map();
    const note = (e, value) => {
        const {color, fill} = getComputedStyle(e);
        const kind = `${e.tagName}.${e.getAttribute('class')} ${color} ${fill}`;
        const start = (e.textContent || e.outerHTML).slice(0, 40);
        wrong.set(kind, `${kind} ${value.toFixed(2)}: ${start}`);
    };
    for (const e of document.querySelectorAll('body *')) {
        if (!says(e) || !seen(e) || e.closest('script, style, option, .katex-mathml')) continue;
        const {fill, color} = getComputedStyle(e);
        const value = contrast(e, e.closest('svg') ? fill : color);
        if (value < 4.5) note(e, value);
    }
    const shapes = 'rect, circle, path, polygon, polyline, ellipse';
    for (const e of document.querySelectorAll(`figure svg :is(${shapes})`)) {
        if (!seen(e)) continue;
        const {fill, stroke, fillOpacity, strokeOpacity} = getComputedStyle(e);
        const paints = [[fill, fillOpacity], [stroke, strokeOpacity]].filter(([p]) => p != 'none');
        const value = Math.max(...paints.map(([paint, opacity]) => contrast(e, paint, opacity)));
        if (value < 1.5) note(e, value);
    }
    return [...wrong.values()];
}"""
ON_PAPER = """() => {
    const seen = (e) => e.getClientRects().length;
    const beside = '#quarto-header, .sidebar, .nav-page, figure label, .code-copy-button';
    const white = getComputedStyle(document.body).backgroundColor == 'rgb(255, 255, 255)';
    const left = [...document.querySelectorAll(beside)].filter(seen);
    const frames = (figure) => [...figure.querySelectorAll('g[data-frame]')];
    const still = (figure) => frames(figure).filter(seen).length == 1;
    const figures = [...document.querySelectorAll('figure:has([data-frame])')];
    return [
        ...(white ? [] : ['the background is not white']),
        ...[...left, ...figures.filter((f) => !still(f))].map((e) => e.outerHTML.slice(0, 90)),
    ];
}"""


@pytest.fixture(scope='module')
def tab(browser):
    "One page for all, and where it notes what goes wrong; whatever is not on the disk is refused."
    page, faults = browser.new_page(), defaultdict(list)
    page.set_default_timeout(120_000)
    page.route(re.compile('^(?!file:|data:)'), lambda route: refuse(route, faults))
    page.on('pageerror', lambda error: faults['error'].append(str(error)))
    page.on('console', lambda said: faults['console'].append(said.text))
    yield page, faults
    page.close()


def refuse(route, faults):
    faults['asked for'].append(route.request.url)
    route.abort()


@pytest.fixture
def book(tab):
    page, faults = tab
    page.set_viewport_size(DESK)
    page.emulate_media(media='screen', color_scheme='light', reduced_motion='reduce')
    faults.clear()
    return page, faults


@pytest.mark.parametrize('name', PAGES)
def test_page(book, name):
    page, faults = book
    page.goto((DOCS / name).as_uri())
    faults['a picture without words'] = page.evaluate(WITHOUT_WORDS)
    folded = page.locator('main details > summary')
    if folded.count():
        folded.first.click()
    page.evaluate('document.querySelectorAll("details").forEach((e) => { e.open = true })')
    faults['pale in the light'] = page.evaluate(PALE)
    move_sliders(page, faults)
    page.emulate_media(color_scheme='dark')
    page.wait_for_function('document.documentElement.classList.contains("quarto-dark")')
    faults['pale in the dark'] = page.evaluate(PALE)
    page.set_viewport_size(PHONE)
    faults['too wide for a phone'] = page.evaluate(TOO_WIDE)
    page.set_viewport_size(DESK)
    page.emulate_media(media='print')
    faults['on paper'] = page.evaluate(ON_PAPER) + page.evaluate(PALE)
    faults = {what: lines for what, lines in faults.items() if lines}
    assert not faults, '\n'.join(f'{what}: {line}' for what in faults for line in faults[what])


def test_pages_of_the_source(book):
    page, faults = book
    page.set_viewport_size(PHONE)
    for path in sorted((DOCS / 'source').glob('*.html'))[:3]:  # one formatter has made them all
        page.goto(path.as_uri())
        assert not faults and not page.evaluate(TOO_WIDE), (path.name, faults)


def move_sliders(page, faults):
    "Each slider by key, to its other end; the picture of its figure changes each time."
    shown = """(slider) => [...slider.closest('figure').querySelectorAll('g[data-frame]')]
        .findIndex((frame) => !frame.style.display)"""
    sliders = page.locator('figure input[type=range]')
    for k in range(sliders.count()):
        slider = sliders.nth(k)
        before = slider.evaluate(shown)
        slider.press('End' if slider.input_value() == '0' else 'Home')
        if slider.evaluate(shown) == before:
            faults['a slider that moves nothing'].append(slider.evaluate('e => e.outerHTML'))


@pytest.mark.parametrize(
    'words, wanted',
    [
        ('learning rate per neuron', 'fine_tuning.html'),
        ('BPTT', 'meta.html'),
        ('Lovász', 'lovasz.html'),
    ],
)
def test_search(book, words, wanted):
    page, faults = book
    page.goto((DOCS / 'index.html').as_uri())
    page.get_by_label('Search').fill(words)
    hits = page.locator('.search-result')
    hits.first.wait_for()
    found = hits.evaluate_all('(all) => all.map((hit) => hit.getAttribute("href"))')
    assert any(wanted in href for href in found[:5]), found
    assert not faults
    hits.first.click()
    page.locator('main', has_text=words).wait_for()
