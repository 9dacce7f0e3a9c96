"The page to paint on: what strokes become, what survives, and a person at work in a real browser."

import asyncio
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command import invoke
from PIL import Image
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from eosvos import app as module
from eosvos.app import Session, _read_message, make_app
from eosvos.core import DEMO, demo_frame, masks_to_boxes
from eosvos.follow import load
from eosvos.metrics import jaccard
from eosvos.painting import Project, draw, mask_runs, propose
from eosvos.video import Clip, open_clip, read_mask, write_video

H, W, COUNT = 24, 40, 8
LOCAL = '127.0.0.1'
SOCKET = f'ws://{LOCAL}/secret/socket'


# ---- strokes


def disc(x, y, radius, shape=(H, W)):
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def drawn(*strokes):
    ids = torch.zeros(H, W, dtype=torch.int64)
    for stroke in strokes:
        draw(ids, stroke)
    return ids.numpy()


@pytest.mark.parametrize('x, y, size', [(20, 12, 9), (0, 0, 14), (39.5, 3.25, 1), (-4, 30, 25)])
def test_a_dot_is_a_disc(x, y, size):
    assert np.array_equal(drawn(dict(id=3, size=size, points=[[x, y]])) == 3, disc(x, y, size / 2))


def test_a_line_is_all_discs_along_it():
    points = [[5, 20], [30, 4], [35.5, 18.25]]
    wanted = np.zeros((H, W), bool)
    for (ax, ay), (bx, by) in zip(points, points[1:]):
        for t in np.linspace(0, 1, 2000):
            wanted |= disc(ax + t * (bx - ax), ay + t * (by - ay), 3)
    assert np.array_equal(drawn(dict(id=1, size=6, points=points)) == 1, wanted)


def test_the_last_stroke_wins_and_the_eraser_clears():
    one, two = dict(id=1, size=10, points=[[10, 10]]), dict(id=2, size=10, points=[[14, 10]])
    ids = drawn(one, two, dict(id=0, size=4, points=[[10, 0], [10, 20]]))
    a, b, gone = disc(10, 10, 5), disc(14, 10, 5), abs(np.arange(W) + 0.5 - 10) <= 2
    assert np.array_equal(ids == 2, b & ~gone) and np.array_equal(ids == 1, a & ~b & ~gone)
    beyond = dict(id=1, size=30, points=[[-100, -100], [500, -90]])
    assert not drawn(beyond).any()


def test_runs_say_what_the_mask_is():
    for mask in (disc(10, 10, 5), np.ones((H, W), bool), np.zeros((H, W), bool), disc(0, 0, 9)):
        assert np.array_equal(drawn(dict(id=4, runs=mask_runs(torch.from_numpy(mask)))) == 4, mask)


def test_a_box_beyond_the_frame_holds_nothing():
    tracker, (image, ids) = load('small', 'cpu'), demo_frame()
    for box in ([-90, 5, -20, 40], [700, 5, 800, 40], [640, 360, 700, 400]):
        assert not propose(tracker, image, box).any()
    left, top, right, bottom = masks_to_boxes((ids == 1)[None])[0].tolist()
    moved = image[:, :, int(left + right) // 2 :]  # the cup across the left side
    half = propose(tracker, moved, [left - right, top, (right - left) / 2, bottom])
    true = ids[:, int(left + right) // 2 :] == 1
    assert (half & true).sum() / (half | true).sum() > 0.6


# ---- project and session, with followers that see the truth


@pytest.fixture
def clip():
    "Object 1 moves to the right from frame 0 on, object 2 appears in frame 3."
    truth = torch.zeros(COUNT, H, W, dtype=torch.int64)
    for i in range(COUNT):
        truth[i, 4:10, 2 + 2 * i : 12 + 2 * i] = 1
        if i >= 3:
            truth[i, 14:20, 20 - i : 28 - i] = 2
    names = [f'{i:05d}' for i in range(COUNT)]
    images = [(ids / 10).expand(3, -1, -1) for ids in truth]

    class Frames(list):
        size, times = (H, W), None

    frames = Frames(images)
    frames.names, frames.truth = names, truth
    return frames


class Seer:
    "A follower that finds the object wherever it is, and notes what it was taught and told."

    def __init__(self, tracker, image, mask, name, watch=iter):
        self.name, self.taught, self.places, self.score = name, [], [], 0.9
        self.correct(image, mask, watch)

    def correct(self, image, mask, watch=iter):
        assert list(watch([0, 0])) == [0, 0]
        self.taught.append(mask)
        self.mask = mask == 1

    def place(self, mask):
        self.places.append(mask)
        self.mask = mask

    def step(self, image):
        self.mask = (image[0] * 10).round() == self.name
        return 0.9 * self.mask


@pytest.fixture
def session(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'Follower', Seer)
    monkeypatch.setattr(module, 'propose', lambda tracker, image, box: image[0] > 0)
    tuned = SimpleNamespace(fine_tune=SimpleNamespace(iterations=2))
    tracker = SimpleNamespace(device=torch.device('cpu'), config=tuned)
    return Session(Project(clip, tmp_path / 'project'), tracker)


def ask(session, type, **values):
    "Send a message, and wait for the answer."
    answers = []
    session.receive(json.dumps(dict(type=type, **values)), answers.append)
    session.worker.submit(int).result(60)
    (answer,) = answers
    return answer


def paint(session, frame, mask, id):
    "Paint a whole mask as many short strokes one pixel high."
    for start, end in mask_runs(mask):
        y, x1 = divmod(start, W)
        x2 = x1 + end - start
        points = [[x1 + 0.5, y + 0.5], [x2 - 0.5, y + 0.5]]
        stroke = dict(frame=frame, id=id, size=1, points=points)
        assert ask(session, 'stroke', **stroke)['type'] == 'done'


def masks(session):
    return torch.stack([session.project.mask(i) for i in range(COUNT)])


def test_go_follows_forwards_and_backwards(session, clip):
    "Object 2 is painted in frame 5 only: what comes before is found backwards."
    paint(session, 0, clip.truth[0] == 1, 1)
    assert ask(session, 'go', frame=0)['type'] == 'done'
    assert torch.equal(masks(session), clip.truth * (clip.truth == 1))
    paint(session, 5, clip.truth[5] == 2, 2)
    heard = []
    session.pages.add(heard.append)
    assert ask(session, 'go', frame=0)['type'] == 'done'
    assert torch.equal(masks(session), clip.truth)
    frames = [event['index'] for event in heard if event['type'] == 'frame']
    assert frames == [6, 7, 4, 3, 2, 1, 0], 'what is known of object 1 before frame 5 stays'
    assert heard[-1] == dict(type='idle')
    shares = [event['share'] for event in heard if event['type'] == 'progress']
    assert shares[:2] == [0, 0.5] and max(shares) < 1
    scores = session.project.data['scores']
    assert scores[1] == [None] + [round(8 / 12, 3)] * 7, 'what it shares with the frame before'
    near = round(7 / 9, 3)
    assert scores[2] == [0, 0, 0, near, near, None, near, near]


def test_two_objects_given_in_different_frames_before_the_first_go(session, clip):
    paint(session, 0, clip.truth[0] == 1, 1)
    paint(session, 4, clip.truth[4] == 2, 2)
    ask(session, 'go', frame=7)
    assert torch.equal(masks(session), clip.truth)
    assert session.project.data['taught'] == [[1], [], [], [], [2], [], [], []]


def test_what_is_painted_stays_as_it_is_painted(session, clip):
    "In frame 4 the object is painted smaller than it would be found."
    paint(session, 0, clip.truth[0] == 1, 1)
    smaller = (clip.truth[4] == 1) & (torch.arange(W) < 14)
    paint(session, 4, smaller, 1)
    ask(session, 'go', frame=0)
    assert torch.equal(session.project.mask(4) == 1, smaller) and len(session.followers[1][0]) == 2
    assert ask(session, 'go', frame=7)['text'].startswith('nothing comes after this frame')


def test_a_mended_frame_is_learned_stays_and_is_where_it_goes_on(session, clip):
    paint(session, 0, clip.truth[0] == 1, 1)
    ask(session, 'go', frame=0)
    follower = session.followers[1][1]
    ask(session, 'stroke', frame=4, id=0, size=6, points=[[12, 4], [12, 10]])
    mended = session.project.mask(4)
    assert mended.sum() == 30 and (clip.truth[4] == 1).sum() == 60
    heard = []
    session.pages.add(heard.append)
    ask(session, 'go', frame=2)
    assert [event['index'] for event in heard if event['type'] == 'frame'] == [5, 6, 7]
    assert session.followers[1][1] is follower and len(follower.taught) == 2
    assert torch.equal(follower.taught[1], mended.byte())
    assert torch.equal(follower.places[-1], mended == 1)
    assert torch.equal(session.project.mask(4), mended)
    ask(session, 'go', frame=0)
    assert torch.equal(session.project.mask(4), mended), 'also when it is passed again'
    assert session.followers[1][1] is follower and len(follower.taught) == 2, 'nothing new'
    ask(session, 'undo', frame=4)
    assert torch.equal(session.project.mask(4), clip.truth[4] * (clip.truth[4] == 1))
    ask(session, 'go', frame=0)
    assert session.followers[1][1] is not follower, 'what it learned is no longer true'


def test_undo_and_redo_by_stroke(session, clip):
    project, dots = session.project, [[10, 10], [20, 10], [30, 10]]
    seen = [project.mask(0)]
    for x, y in dots:
        ask(session, 'stroke', frame=0, id=1, size=5, points=[[x, y]])
        seen.append(project.mask(0))
    for steps, kind in ((range(2, -1, -1), 'undo'), (range(1, 3), 'redo')):
        for n in steps:
            ask(session, kind, frame=0)
            assert torch.equal(project.mask(0), seen[n])
    ask(session, 'stroke', frame=0, id=2, size=5, points=[[5, 5]])
    assert project.about(0)['redo'] == 0 and project.about(0)['undo'] == 3
    for _ in range(5):
        ask(session, 'undo', frame=0)
    assert not project.path(0).exists() and project.about(0)['painted'] is None


def test_what_is_painted_and_found_survives_a_kill(session, clip):
    "Nothing is kept in memory that is not on disk: another process knows the same."
    paint(session, 0, clip.truth[0] == 1, 1)
    ask(session, 'go', frame=0)
    ask(session, 'stroke', frame=3, id=0, size=4, points=[[10, 7]])
    session.close()
    again = Project(clip, session.project.folder)
    assert again.data == session.project.data and again.data['todo'] == [3]
    told = [[p.about(i) for i in range(COUNT)] for p in (again, session.project)]
    assert told[0] == told[1]
    assert all(torch.equal(again.mask(i), session.project.mask(i)) for i in range(COUNT))


def test_a_later_message_ends_what_is_computed(session, clip):
    paint(session, 0, clip.truth[0] == 1, 1)
    answers, seen = [], []

    def listen(event):
        seen.append(event)
        if event['type'] == 'frame' and event['index'] == 3:
            session.receive('{"type": "stop"}', answers.append)

    session.pages.add(listen)
    assert ask(session, 'go', frame=0)['to'] == 'go'
    session.worker.submit(int).result(60)
    assert [event['index'] for event in seen if event['type'] == 'frame'] == [1, 2, 3]
    assert seen[-1] == dict(type='idle') and answers == [dict(type='done', to='stop')]
    session.pages.clear()
    ask(session, 'go', frame=3)
    assert torch.equal(masks(session), clip.truth * (clip.truth == 1)), 'and Go goes on from there'


def test_doubtful_frames(session):
    found = session.project.found
    for i, score in enumerate([0.9, 0.59, 0.6, 0, 0, 0.9]):
        found(i, torch.zeros(H, W, dtype=torch.int64), {2: score})
    told = [session.project.about(i)['doubtful'] for i in range(COUNT)]
    assert told == [[], [2], [], [2], [], [], [], []], 'a low score, and a loss'


def test_errors_are_answered_and_the_next_message_is_done(session, clip, monkeypatch, capsys):
    assert ask(session, 'go', frame=0)['text'] == 'paint an object first'
    paint(session, 0, clip.truth[0] == 1, 1)

    def broken(self, image):
        raise FloatingPointError('losses are\nnot finite')

    monkeypatch.setattr(Seer, 'step', broken)
    assert ask(session, 'go', frame=0) == dict(type='error', to='go', text='losses are not finite')
    monkeypatch.setattr(Seer, 'step', lambda self, image: 1 / 0)
    assert ask(session, 'go', frame=0)['text'] == 'division by zero'
    assert 'ZeroDivisionError' in capsys.readouterr().err, 'a fault of ours is told in full'
    assert ask(session, 'stroke', frame=0, id=1, size=3, points=[[1, 1]])['type'] == 'done'


def test_one_project_at_a_time_works_in_a_folder(clip, tmp_path):
    project = Project(clip, tmp_path / 'mine')
    before = files_below(tmp_path)
    with pytest.raises(ValueError, match='mine: another eosvos app works in it; end that one'):
        Project(clip, tmp_path / 'mine')
    assert files_below(tmp_path) == before
    project.close()
    Project(clip, tmp_path / 'mine').close()


def test_a_folder_of_something_else_is_refused(clip, tmp_path):
    Project(clip, tmp_path / 'mine').close()
    short = type(clip)(clip[:3])
    short.names = clip.names[:3]
    with pytest.raises(ValueError, match='mine: belongs to another clip, with frames .*, got'):
        Project(short, tmp_path / 'mine')
    clip[0] = clip[0] / 2
    with pytest.raises(ValueError, match="belongs to another clip, with first_frame '.*, got '"):
        Project(clip, tmp_path / 'mine')
    (tmp_path / 'mine/project.json').write_text('{"frames": ')
    with pytest.raises(ValueError, match='mine/project.json: no project of this version'):
        Project(clip, tmp_path / 'mine')
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/letter.txt').touch()
    with pytest.raises(ValueError, match='full: expected a project or nothing in it'):
        Project(clip, tmp_path / 'full')
    assert [p.name for p in (tmp_path / 'full').iterdir()] == ['letter.txt']


# ---- messages and addresses


@pytest.mark.parametrize(
    'text',
    [
        None,
        '',
        '{',
        '[]',
        '3',
        '{}',
        '[' * 100_000,
        '{"type": []}',
        '{"type": "_go", "frame": 0}',
        '{"type": "close"}',
        '{"type": "go"}',
        '{"type": "go", "frame": -1}',
        '{"type": "go", "frame": 8}',
        '{"type": "go", "frame": true}',
        '{"type": "go", "frame": 1.0}',
        '{"type": "go", "frame": "../../etc"}',
        '{"type": "go", "frame": 0, "path": "/etc"}',
        '{"type": "go", "frame": ' + '9' * 5000 + '}',
        '{"type": "stroke", "frame": 0, "id": 10, "size": 3, "points": [[1, 1]]}',
        '{"type": "stroke", "frame": 0, "id": 1, "size": 0, "points": [[1, 1]]}',
        '{"type": "stroke", "frame": 0, "id": 1, "size": NaN, "points": [[1, 1]]}',
        '{"type": "stroke", "frame": 0, "id": 1, "size": 3, "points": []}',
        '{"type": "stroke", "frame": 0, "id": 1, "size": 3, "points": [[1, 1, 1]]}',
        '{"type": "stroke", "frame": 0, "id": 1, "size": 3, "points": [[1, Infinity]]}',
        '{"type": "stroke", "frame": 0, "id": 1, "size": 3, "points": [["1", 1]]}',
        '{"type": "box", "frame": 0, "id": 1, "box": [5, 5, 5, 9]}',
        '{"type": "box", "frame": 0, "id": 1, "box": [5, 5, 9]}',
    ],
)
def test_a_message_that_is_none_is_refused(text, clip):
    with pytest.raises(ValueError, match='expected') as error:
        _read_message(text, clip)
    assert len(str(error.value)) < 200


def client(session):
    return TestClient(make_app(session, 'secret'), base_url=f'http://{LOCAL}')


def test_addresses(session, clip):
    with client(session) as browser:
        page = browser.get('/secret/')
        assert page.status_code == 200 and '<main' in page.text
        assert "default-src 'self'" in page.headers['content-security-policy']
        assert 'http' not in page.text, 'the page names no other address'
        for name in ('canvas.js', 'style.css', 'frame/7', 'mask/0'):
            assert browser.get(f'/secret/{name}').status_code == 200
        ids = np.frombuffer(browser.get('/secret/mask/0').content, np.uint8)
        assert ids.shape == (H * W,) and not ids.any()
        wrong = 'frame/8', 'mask/8', 'mask/-1', 'mask/a', 'export.zip', 'canvas.js/x', 'app.py'
        for name in wrong + ('..%2f..%2fpyproject.toml', 'project.json', 'masks/00000.png'):
            assert browser.get(f'/secret/{name}').status_code == 404, name
        for path in ('/', '/canvas.js', '/mask/0', '/other/', '/secret2/mask/0'):
            assert browser.get(path).status_code == 404, path
        foreign = {'host': 'evil.example'}
        assert browser.get('/secret/', headers=foreign).status_code == 400
        for address in (f'ws://{LOCAL}/other/socket', 'ws://evil.example/secret/socket'):
            with pytest.raises(WebSocketDisconnect), browser.websocket_connect(address):
                pass


def test_every_page_hears_and_only_the_sender_is_answered(session):
    with client(session) as browser:
        one = browser.websocket_connect(SOCKET)
        two = browser.websocket_connect(SOCKET)
        with one, two:
            state = one.receive_json()
            assert two.receive_json() == state and state['type'] == 'state'
            assert (state['width'], state['height'], len(state['frames'])) == (W, H, COUNT)
            one.send_json(dict(type='stroke', frame=2, id=5, size=4, points=[[9, 9]]))
            heard = [one.receive_json(), two.receive_json()]
            assert heard[0] == heard[1] and heard[0]['painted'] == [5]
            assert one.receive_json() == dict(type='done', to='stroke')
            two.send_json(dict(type='undo', frame=2))
            assert two.receive_json()['painted'] is None
            assert two.receive_json() == dict(type='done', to='undo')
        with browser.websocket_connect(SOCKET) as late:
            assert late.receive_json()['frames'][2]['redo'] == 1


def test_how_things_stand_is_the_first_that_a_page_hears(session, monkeypatch):
    "Also where something is found meanwhile."
    state = session.state

    def slow():
        session.show(1)
        return state()

    monkeypatch.setattr(session, 'state', slow)
    with client(session) as browser, browser.websocket_connect(SOCKET) as page:
        assert page.receive_json()['type'] == 'state'
        assert page.receive_json()['index'] == 1


# ---- other clips


def picture(value, size=(W, H)):  # the bytes of a PNG of one grey
    buffer = BytesIO()
    Image.new('L', size, value).save(buffer, 'PNG')
    return buffer.getvalue()


def packed(*files):  # as the page sends them
    return b''.join(len(file).to_bytes(8, 'little') + file for file in files)


def parts(folder):
    return sorted(path.name for path in folder.iterdir())


def test_pictures_that_a_page_sends_are_a_clip_with_a_project_of_its_own(session, tmp_path):
    ask(session, 'stroke', frame=0, id=1, size=5, points=[[10, 10]])
    body, folder, before = packed(picture(51), picture(102)), session.project.folder, masks(session)
    with client(session) as browser:
        address = browser.post('/secret/open', content=body).text
        name = re.fullmatch('/secret/clips/(clip-[0-9a-f]{8})/', address)[1]
        assert {path.name for path in folder.glob('clip*')} == {name, f'{name}.eosvos'}
        assert [path.read_bytes() for path in sorted((folder / name).iterdir())] == [
            picture(51),
            picture(102),
        ]
        with browser.websocket_connect(f'ws://{LOCAL}{address}socket') as page:
            state = page.receive_json()
            assert (state['width'], state['height'], len(state['frames'])) == (W, H, 2)
            assert state['clips'] == [['/secret/', 'project'], [address, name]]
            page.send_json(dict(type='stroke', frame=1, id=4, size=9, points=[[30, 9]]))
            assert page.receive_json()['painted'] == [4]
        image = Image.open(BytesIO(browser.get(f'{address}frame/1').content))
        assert image.size == (W, H) and image.getpixel((0, 0)) == (102, 102, 102)
        assert browser.get(f'{address}frame/2').status_code == 404
        assert browser.get(f'{address}canvas.js').status_code == 200
        ids = np.frombuffer(browser.get(f'{address}mask/1').content, np.uint8)
        assert ids.max() == 4
        assert torch.equal(masks(session), before), 'the other clip is as it was'
        # the same again is the same clip
        assert browser.post(f'{address}open', content=body).text == address
        other = browser.post('/secret/open', content=packed(picture(7))).text
        assert other != address
        assert browser.get(f'{address}mask/1').status_code == 404, 'closed, as no page shows it'
        with browser.websocket_connect(f'ws://{LOCAL}{address}socket') as page:
            assert page.receive_json()['frames'][1]['painted'] == [4]
            with browser.websocket_connect(f'ws://{LOCAL}{other}socket'):
                assert browser.get(f'{address}mask/1').status_code == 200
        for clip in ('clip-00000000', f'{name}.eosvos', 'base', '%2e%2e%2fx'):
            assert browser.get(f'/secret/clips/{clip}/frame/0').status_code == 404, clip
        with browser.websocket_connect(f'ws://{LOCAL}/secret/clips/base/socket') as page:
            assert page.receive_json() == dict(type='error', text='base: there is no such clip')
        assert browser.post('/other/open', content=body).status_code == 404
    frames = Clip(sorted((folder / name).iterdir()))
    Project(frames, folder / f'{name}.eosvos').close()  # nobody holds it any more


@pytest.mark.parametrize(
    'body, said',
    [
        (packed(b'a letter'), '00000: cannot be read as a video'),
        (packed(b''), '00000: cannot be read as a video'),
        (packed(picture(1), b'no'), "00001: cannot be read as a picture: .* image file '00001'"),
        (packed(picture(1), picture(2, (9, 9))), '00001: expected 40x24 pixels .*, got 9x9 pixels'),
        (packed(picture(1))[:-1], 'expected files, each behind its size; something is missing'),
        (packed(picture(1)) + b'\1', 'expected files, each behind its size; something is missing'),
        (b'', 'expected files, each behind its size; something is missing'),
        (b'\xff' * 1000, 'expected files, each behind its size; something is missing'),
    ],
)
def test_what_is_no_clip_is_named_and_removed(session, body, said):
    before = parts(session.project.folder)
    with client(session) as browser:
        answer = browser.post('/secret/open', content=body)
        assert answer.status_code == 400 and re.match(said, answer.text), answer.text
        assert '\n' not in answer.text and parts(session.project.folder) == before


def run_beside(work):
    "Run a coroutine in another thread: Playwright may hold a loop in this one."
    with ThreadPoolExecutor(1) as beside:
        return beside.submit(asyncio.run, work).result()


async def post(app, chunks, whole=True, path='/secret/open'):
    "Send a request in these chunks, and break off unless it is whole; the answer's status."
    events = [dict(type='http.request', body=chunk, more_body=True) for chunk in chunks]
    events.append(dict(type='http.request' if whole else 'http.disconnect', body=b''))
    answer, headers = [], [(b'host', LOCAL.encode())]

    async def receive():
        return events.pop(0)

    async def send(event):
        answer.append(event.get('status'))

    kind = dict(type='http', method='POST', http_version='1.1', scheme='http')
    await app(
        kind | dict(path=path, headers=headers, query_string=b'', root_path=''), receive, send
    )
    return answer[0]


def test_an_upload_in_small_pieces_and_one_that_breaks_off(session):
    body, folder = packed(picture(3), picture(5)), session.project.folder
    pieces = [body[n : n + 5] for n in range(0, len(body), 5)]
    (folder / '.upload-killed').mkdir()
    app, before = make_app(session, 'secret'), ['base', 'lock', 'masks', 'project.json']
    assert parts(folder) == before, 'what a killed server has left is gone'
    for cut in (0, 1, 2, 12, len(pieces)):
        assert run_beside(post(app, pieces[:cut], whole=False)) == 400
        assert parts(folder) == before
    assert run_beside(post(app, pieces)) == 200
    assert [len(path.read_bytes()) for path in sorted(folder.glob('clip-????????/*'))] == [
        len(picture(3)),
        len(picture(5)),
    ]


def fuzzed(dice):
    "Something that looks more or less like a message."
    odd = [None, True, -1, 10**9, 0.5, 'x', '../../up', [], {}, [[1]], float('nan'), 'ü\0\n']
    fields = dict(
        frame=dice.randrange(COUNT),
        id=dice.randrange(10),
        size=dice.uniform(1, 40),
        points=[[dice.uniform(-50, 90), dice.uniform(-50, 90)] for _ in range(dice.randint(1, 9))],
        box=[dice.randint(0, 20), 3, dice.randint(15, 39), 20],
    )
    kind = dice.choice([*module._MESSAGES, 'open', '_go', 'close'])
    wanted = module._MESSAGES.get(kind, fields)
    message = dict(type=kind, **{name: fields[name] for name in wanted})
    if dice.random() < 0.8:
        message[dice.choice([*message, 'path', 'name'])] = dice.choice([*odd, odd])
    text = json.dumps(message)
    if dice.random() < 0.2:
        cut = dice.randrange(len(text))
        text = text[:cut] + dice.choice(['', '"', '}', '\x00', '[' * 500]) + text[cut + 1 :]
    return text


def files_below(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob('*') if 'project' not in p.parts}


def fuzzed_upload(dice):
    "Chunks that look more or less like pictures which a page sends; and where to."
    odd = [b'', b'\0' * 9, b'no picture', dice.randbytes(40), picture(8, (5, 5))]
    files = [picture(dice.randrange(4)) for _ in range(dice.randint(1, 3))]
    if dice.random() < 0.5:
        files.insert(dice.randrange(3), dice.choice(odd))
    body = packed(*files)
    if dice.random() < 0.3:
        cut = dice.randrange(len(body))
        body = body[:cut] + dice.choice([b'', dice.randbytes(9)]) + body[cut + dice.randrange(9) :]
    cut = dice.randrange(len(body))
    paths = 'open', 'clips/../open', 'clips/../../up/open', 'clips/\0/open', 'clips/clip-x/open'
    return [body[:cut], body[cut:]], dice.random() < 0.9, f'/secret/{dice.choice(paths)}'


async def talk(session, messages, uploads=()):
    "Send messages to the socket as a server would, and return what comes back."
    app, inbox, heard = make_app(session, 'secret'), asyncio.Queue(), []
    answered = asyncio.Semaphore(0)

    async def send(event):
        heard.append(json.loads(event.get('text', '{}')))
        if heard[-1].get('type') in ('done', 'error'):
            answered.release()

    headers = [(b'host', LOCAL.encode())]
    scope = dict(type='websocket', path='/secret/socket', headers=headers, query_string=b'')
    async with app.router.lifespan_context(app):
        inbox.put_nowait(dict(type='websocket.connect'))
        page = asyncio.create_task(app(scope | dict(root_path=''), inbox.get, send))
        for n, message in enumerate(messages):
            inbox.put_nowait(dict(type='websocket.receive') | message)
            if n % 50 == 49:
                for _ in range(50):
                    await answered.acquire()
        inbox.put_nowait(dict(type='websocket.disconnect', code=1001))
        await page
        statuses = [await post(app, *upload) for upload in uploads]
    return heard, statuses


def test_fuzzed_messages_never_end_the_server_nor_leave_the_folder(session, tmp_path, monkeypatch):
    (tmp_path / 'beside').mkdir()
    (tmp_path / 'beside/letter.txt').write_text('mine')
    monkeypatch.chdir(tmp_path / 'beside')
    monkeypatch.setattr(module, 'write_video', lambda path, images, times: list(images))
    before, dice = files_below(tmp_path), random.Random(1)
    texts, uploads = [fuzzed(dice) for _ in range(9_999)], [fuzzed_upload(dice) for _ in range(200)]
    messages = [{dice.choice(['text'] * 20 + ['bytes']): text} for text in texts]
    flood = dict(type='stroke', frame=0, id=1, size=500, points=[[5, 5]])
    heard, statuses = run_beside(talk(session, [*messages, dict(text=json.dumps(flood))], uploads))
    kinds, codes = Counter(event.get('type') for event in heard), Counter(statuses)
    assert kinds['done'] + kinds['error'] == 10_000 and min(kinds['done'], kinds['error']) > 1000
    assert codes.keys() == {200, 400, 404} and min(codes.values()) > 20
    assert (session.project.mask(0) == 1).all(), 'the last message was done like any other'
    assert files_below(tmp_path) == before, 'nothing beside the project was touched'
    known = {f'{name}.png' for name in session.project.clip.names}
    known |= {'project.json', 'lock', 'masks', 'base', 'export', 'export.zip', 'project'}
    names = {p.name for p in session.project.folder.rglob('*')} - known
    assert all(re.fullmatch(r'clip-[0-9a-f]{8}(\.eosvos)?|\d{5}(\.png)?', name) for name in names)


# ---- the command


def test_the_command_names_what_is_wrong(tmp_path, monkeypatch):
    def refused(*words):
        done = invoke(['app', *words, '--no-browse'])
        assert done.exit_code == 1 and done.stdout == ''
        return done.stderr.strip().splitlines()[-1]

    assert 'nowhere' in refused(str(tmp_path / 'nowhere'))
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/letter.txt').touch()
    assert 'expected a project' in refused('--out', str(tmp_path / 'full'))
    monkeypatch.setitem(sys.modules, 'uvicorn', None)
    assert refused() == (
        "eosvos: import of uvicorn halted; None in sys.modules: "
        "install the extra, pip install 'eosvos[app]'"
    )


# ---- a person at work, in a real browser

FRAMES = 5
WATCH = """() => {
    window.said = [];
    const see = () => window.said.push(window.eosvos.status.textContent);
    new MutationObserver(see).observe(window.eosvos.status, { childList: true });
}"""
SERVE = """import sys
from dataclasses import replace
from eosvos.app import serve
from eosvos.follow import load, variant
tracker = load('small', 'cpu')
serve(*sys.argv[1:], replace(tracker, config=variant('e-osvos-2', tracker.config)), browse=False)
"""


@contextmanager
def served(clip, folder):
    "The address of a server in a process of its own, and that process."
    command = [sys.executable, '-c', SERVE, clip, folder]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process.stderr.readline().strip(), process
        finally:
            process.kill()


class Person:
    "Somebody in front of the page; notes what it asks for and what goes wrong."

    def __init__(self, browser, address, **options):
        from playwright.sync_api import expect

        expect.set_options(timeout=120_000)
        self.expect, self.address, self.faults, self.asked = expect, address, [], []
        self.page = browser.new_page(**options)
        self.page.on('pageerror', lambda error: self.faults.append(str(error)))
        self.page.on('request', lambda request: self.asked.append(request.url))
        self.page.on('websocket', lambda socket: self.asked.append('http' + socket.url[2:]))
        self.open()

    def open(self):
        self.page.goto(self.address)
        self.opened(FRAMES)

    def opened(self, count):
        "Wait until the first of so many frames is there."
        self.sees('#number', f'1 of {count}')
        self.settles()

    def picks(self, *files):
        self.page.set_input_files('#files', files)

    def sees(self, where, text):
        self.expect(self.page.locator(where)).to_have_text(text)

    def settles(self):
        "Wait until the page has shown what the server knows."
        for _ in range(600):
            if self.page.evaluate(
                '(({ painter, loading, unanswered }) => painter?.image && !loading && !unanswered)'
                '(window.eosvos)'
            ):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError('the page does not settle')

    def ids(self):  # (H, W) as the page shows them
        self.settles()
        text, width = self.page.evaluate(
            '(({ ids, width }) => [new TextDecoder("latin1").decode(ids), width])'
            '(window.eosvos.painter)'
        )
        return np.frombuffer(text.encode('latin1'), np.uint8).reshape(-1, width)

    def paint(self, points, size=None):  # pixels of the frame
        canvas = self.page.locator('#stage canvas')
        box = canvas.bounding_box()
        scale = box['width'] / self.page.evaluate('window.eosvos.painter.width')
        if size:
            self.page.get_by_label('Width').fill(str(size))
        for n, (x, y) in enumerate(points):
            self.page.mouse.move(box['x'] + x * scale, box['y'] + y * scale, steps=3 if n else 1)
            if not n:
                self.page.mouse.down()
        self.page.mouse.up()
        self.settles()

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)
        self.settles()

    def goes(self):
        self.page.click('#go')
        self.sees('#go', 'Stop')
        self.sees('#go', 'Go')
        self.settles()


def by_hand(mask, size):
    "Strokes as a person would fill a shape: from side to side, half a brush from its edge."
    r, (rows, _) = size / 2, np.nonzero(mask)
    for y in np.linspace(rows.min() + r, rows.max() + 1 - r, 5):
        columns = np.flatnonzero(mask[int(y)])
        left, right = columns.min() + r, columns.max() + 1 - r
        yield [(min(left, right), y), (max(left, right), y)]


@pytest.fixture(scope='module')
def cup(tmp_path_factory):
    folder = tmp_path_factory.mktemp('clips') / 'cup'
    folder.mkdir()
    for file in sorted((DEMO / 'frames').iterdir())[:FRAMES]:
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope='module')
def address(cup, tmp_path_factory):
    "Of a server for the tests that end none."
    with served(cup, tmp_path_factory.mktemp('projects') / 'cup.eosvos') as (address, _):
        yield address


def test_a_person_paints_goes_mends_and_exports(browser, cup, tmp_path):
    project = tmp_path / 'cup.eosvos'
    true = [(demo_frame(i)[1] == 1).numpy() for i in range(FRAMES)]
    with served(cup, project) as (address, process):
        person = Person(browser, address)
        page = person.page
        assert '127.0.0.1' in address and not person.ids().any()
        second = invoke(['app', cup, '--out', project, '--no-browse'])
        assert f'{project}: another eosvos app works in it; end that one' in second.stderr
        # paint, erase, undo, redo
        for stroke in by_hand(true[0], 30):
            person.paint(stroke, 30)
        painted = person.ids()
        assert jaccard(painted == 1, true[0]) > 0.85
        assert np.array_equal(read_mask(project / 'masks/00000.png', binary=False), painted)
        person.paint([(60, 60), (160, 90)])
        assert (person.ids() == 1)[60, 60]
        page.get_by_label('Eraser').click()
        person.paint([(50, 55), (170, 95)], 60)
        assert np.array_equal(person.ids(), painted)
        person.press('Control+z', 'Control+z')
        assert np.array_equal(person.ids(), painted)
        person.press('2')
        person.paint([(300, 50)], 40)
        assert (person.ids()[35:65, 300] == 2).all()
        person.press('Control+z')
        # go, and masks arrive
        person.goes()
        person.sees('#number', f'{FRAMES} of {FRAMES}')
        assert jaccard(person.ids() == 1, true[-1]) > 0.8
        # mend a frame, and go on from there
        person.press('Home', 'ArrowRight', 'ArrowRight')
        person.sees('#number', f'3 of {FRAMES}')
        before = person.ids()
        person.press('b', '1')
        for stroke in by_hand(true[2], 24):
            person.paint(stroke, 24)
        mended = person.ids()
        assert np.array_equal((mended != before), (mended == 1) & (before != 1))
        page.evaluate(WATCH)
        person.goes()
        said = page.evaluate('window.said')
        for text in ('Learning object 1: step 2 of 2', 'Following: frame 2 of 2'):
            assert any(line.startswith(text) for line in said), said
        # a reload in the middle, a second tab, a killed server
        other = Person(browser, address)
        page.reload()
        person.sees('#status', 'Welcome back.')
        for who in (person, other):
            who.press('Home', 'ArrowRight', 'ArrowRight')
            assert np.array_equal(who.ids(), mended)
        other.paint([(20, 20)], 30)
        assert (person.ids() == other.ids()).all() and person.ids()[20, 20] == 1
        person.press('Control+z')
        process.kill()
        person.expect(page.locator('#status')).to_contain_text('No connection')
        person.expect(page.locator('#go')).to_be_disabled()
    for who in (person, other):
        assert not who.faults and all(url.startswith(address) for url in who.asked), who.asked
        who.page.close()
    with served(cup, project) as (address, _):
        person = Person(browser, address)
        person.press('ArrowRight', 'ArrowRight')
        assert np.array_equal(person.ids(), mended)
        person.page.click('#export')
        person.expect(person.page.locator('#status a')).to_have_text('Download')
        with person.page.expect_download() as download:
            person.page.click('#status a')
        assert download.value.suggested_filename == 'cup.zip'
        person.press('Home')
        for i in range(FRAMES):
            ids = read_mask(project / f'export/cup/{i:05d}.png', binary=False).numpy()
            assert np.array_equal(person.ids(), ids), 'what the page shows is what is written'
            assert jaccard(ids == 1, true[i]) >= 0.8
            person.press('ArrowRight')
        assert len(open_clip(project / 'export/cup.mp4')) == FRAMES
        assert not person.faults
        person.page.close()


def test_box_phone_and_keyboard(browser, address):
    person = Person(browser, address, viewport=dict(width=390, height=844), has_touch=True)
    page, true = person.page, (demo_frame()[1] == 1).numpy()
    assert page.evaluate('document.documentElement.scrollWidth') <= 390
    for button in page.locator('button').all():
        box = button.bounding_box()
        assert box['x'] >= 0 and box['x'] + box['width'] <= 390 and box['height'] >= 36
    rows, columns = np.nonzero(true)
    person.press('r')
    ends = (columns.min() - 4, rows.min() - 4), (columns.max() + 5, rows.max() + 5)
    person.paint(ends)
    assert jaccard(person.ids() == 1, true) > 0.9, 'drawn by the model'
    # without a mouse: nine is a colour, brackets the size, Enter a dab, Space begins and ends
    person.press('Control+z', '9', 'b', ']', ']')
    page.locator('#stage canvas').focus()
    person.press('Shift+ArrowLeft', 'Shift+ArrowUp', 'Enter')
    ids = person.ids()
    size = page.evaluate('window.eosvos.painter.size')
    x, y = (round(8 * end) / 8 - size / 2 for end in ends[1])
    assert np.array_equal(ids == 9, disc(x, y, size / 2, ids.shape))
    page.evaluate('document.activeElement.blur()')
    person.press('Space')
    person.sees('#go', 'Stop')
    person.press('Space')
    person.sees('#go', 'Go')
    person.press('End', 'ArrowLeft')
    person.sees('#number', f'{FRAMES - 1} of {FRAMES}')
    assert not person.faults
    page.close()


def test_other_clips_and_the_webcam(browser, address, tmp_path):
    video, letter = tmp_path / 'holiday.mp4', tmp_path / 'a letter.txt'
    write_video(video, [torch.full((3, 60, 80), i / 4) for i in range(4)])
    letter.write_text('dear')
    for name, grey in (('b10.png', 200), ('b9.png', 100)):
        (tmp_path / name).write_bytes(picture(grey))
    person = Person(browser, address)
    page, first = person.page, person.ids()
    assert page.locator('#clips').input_value() == address[address.index('/', 8) :]
    person.picks(letter)
    told = 'a letter.txt: cannot be read as a video: Invalid data found when processing input'
    person.sees('#status', told)
    person.paint([(70, 70)], 20)
    painted = person.ids()
    assert not np.array_equal(painted, first)
    # a video; back to the first clip; the video again
    person.picks(video)
    person.opened(4)
    assert page.url.startswith(f'{address}clips/clip-') and person.ids().shape == (60, 80)
    person.press('3')
    person.paint([(20, 20)], 10)
    assert person.ids()[20, 20] == 3
    page.locator('#clips').select_option(index=0)
    person.opened(FRAMES)
    assert page.url == address and np.array_equal(person.ids(), painted)
    person.press('Control+z')
    person.picks(video)
    person.opened(4)
    assert person.ids()[20, 20] == 3
    # pictures, in the order of their names
    person.picks(tmp_path / 'b10.png', tmp_path / 'b9.png')
    person.opened(2)
    grey = """async (index) => {
        const context = new OffscreenCanvas(1, 1).getContext('2d');
        context.drawImage(await eosvos.picture(index), 0, 0);
        return context.getImageData(0, 0, 1, 1).data[0];
    }"""
    assert [page.evaluate(grey, index) for index in (0, 1)] == [100, 200]
    # a recording
    before = page.url
    page.get_by_role('button', name='Webcam').click()
    camera = page.locator('#camera')
    person.expect(camera).to_be_visible()
    person.expect(page.locator('#stage canvas')).to_be_hidden()
    page.evaluate("""() => new Promise((done) => {
        const { camera } = eosvos;
        camera.ontimeupdate = () => { if (camera.currentTime > 0.5) done(); };
    })""")
    page.get_by_role('button', name='End').click()
    page.wait_for_url(lambda url: url not in (before, address))
    person.expect(page.locator('#number')).to_have_text(re.compile('^1 of [0-9]+$'))
    assert person.ids().shape == (480, 640)
    person.expect(camera).to_be_hidden()
    page.click('#go')
    person.sees('#status', 'paint an object first')
    assert not person.faults and all(url.startswith(address) for url in person.asked)
    page.close()


def test_both_sides_draw_the_same_pixels(browser, address):
    dice = random.Random(3)
    strokes = [
        dict(
            id=dice.randrange(10),
            size=dice.choice([1, 2, 3.5, 9, 20]),
            points=[[dice.randrange(-80, 400) / 8, dice.randrange(-80, 280) / 8] for _ in range(n)],
        )
        for n in [1, 2, 3, 5] * 10
    ]
    code = """async ([strokes, width, height]) => {
        const { draw } = await import('./canvas.js'), ids = new Uint8Array(width * height);
        return strokes.map((stroke) => {
            draw(ids, width, height, stroke);
            return Array.from(ids);
        });
    }"""
    person = Person(browser, address)
    theirs = person.page.evaluate(code, [strokes, W, H])
    person.page.close()
    for n, ids in enumerate(theirs, 1):
        assert np.array_equal(np.reshape(ids, (H, W)), drawn(*strokes[:n])), strokes[n - 1]


# ---- the widget, in JupyterLab


def test_a_frame_painted_in_a_notebook_is_a_tensor_in_the_next_cell(browser, tmp_path):
    nbformat = pytest.importorskip('nbformat')
    cells = [
        'from eosvos.core import demo_frame\nfrom eosvos.painting import paint_frame\n'
        'frame = paint_frame(demo_frame()[0])\nframe',
        'from eosvos.video import write_mask\n'
        'write_mask("painted.png", frame.ids)\nframe.ids.shape',
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(o) for o in cells])
    notebook.metadata.kernelspec = dict(name='python3', display_name='python3')
    nbformat.write(notebook, tmp_path / 'mine.ipynb')
    command = [sys.executable, '-m', 'jupyter', 'lab', '--no-browser', '--allow-root', '--port=0']
    command += ['--IdentityProvider.token=secret', f'--ServerApp.root_dir={tmp_path}']
    names = [f'JUPYTER_{name}_DIR' for name in ('DATA', 'CONFIG', 'RUNTIME')]
    own = os.environ | {name: str(tmp_path / name) for name in names}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=own) as server:
        try:
            line = next(line for line in server.stderr if 'http://127.0.0.1' in line)
            port = re.search(r'127\.0\.0\.1:(\d+)', line)[1]
            page, asked = browser.new_page(), []
            page.on('request', lambda request: asked.append(request.url))
            page.goto(f'http://127.0.0.1:{port}/lab/tree/mine.ipynb?token=secret')
            page.set_default_timeout(120_000)
            page.get_by_text('| Idle').wait_for()  # what is run without a kernel is forgotten
            page.locator('.jp-Cell textarea, .jp-Cell .cm-content').first.click()
            page.keyboard.press('Shift+Enter')
            canvas = page.locator('.eosvos canvas')
            canvas.wait_for()
            page.wait_for_timeout(1000)
            box = canvas.bounding_box()
            scale = box['width'] / 640
            page.mouse.move(box['x'] + 200 * scale, box['y'] + 100 * scale)
            page.mouse.down()
            page.mouse.move(box['x'] + 300 * scale, box['y'] + 100 * scale, steps=4)
            page.mouse.up()
            page.locator('.eosvos').get_by_label('Object 3').click()
            canvas.click(position=dict(x=500 * scale, y=250 * scale))  # it may have scrolled
            page.keyboard.press('Control+z')
            page.keyboard.press('Control+y')
            page.locator('.jp-Cell .cm-content').nth(1).click()
            page.keyboard.press('Shift+Enter')
            page.get_by_text('torch.Size([360, 640])').wait_for()
            page.close()
        finally:
            server.terminate()
    ids = read_mask(tmp_path / 'painted.png', binary=False)
    assert ids.unique().tolist() == [0, 1, 3] and (ids[100, 200:300] == 1).all()
    assert ids[250, 500] == 3
    assert all(re.match(r'(https?|wss?)://127\.0\.0\.1:|data:|blob:', url) for url in asked)
