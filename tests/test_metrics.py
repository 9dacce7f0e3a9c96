"J and F: the published numbers, laws that hold for any masks, and every refusal of `evaluate`."

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from command import invoke
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eosvos import metrics
from eosvos.metrics import (
    _boundary,
    _dilate,
    _quarter_edges,
    _tolerance,
    boundary_f,
    evaluate,
    jaccard,
    score_frame,
    statistics,
)


def law(*strategies):
    "A test that holds for whatever the strategies draw, however slow the machine."
    return lambda test: settings(deadline=None)(given(*strategies)(test))


# ---- the published numbers ----


@pytest.fixture(scope='module')
def stm(data):
    "Ours and the published scores of the same masks."
    published = json.loads((data / 'reference/stm-davis2016.json').read_text())
    return evaluate(data / 'reference/stm-davis2016', data / 'DAVIS/Annotations/480p'), published


def test_every_published_frame(stm):
    result, published = stm
    assert [scores.sequence for scores in result.objects] == sorted(published) and len(
        published
    ) == 10
    assert sum(len(scores.frames) for scores in result.objects) == 740
    for scores in result.objects:
        for ours, theirs, limit in (
            (scores.j, published[scores.sequence]['J'], 1e-12),
            (scores.f, published[scores.sequence]['F'], 1e-9),
        ):
            assert theirs['raw'][0] is None and theirs['raw'][-1] is None
            assert np.abs(ours - np.array(theirs['raw'][1:-1])).max() <= limit


def test_published_statistics(stm):
    result, published = stm
    for scores in result.objects:
        for ours, theirs in (
            (scores.j, published[scores.sequence]['J']),
            (scores.f, published[scores.sequence]['F']),
        ):
            mean, recall, decay = statistics(ours)
            assert abs(mean - theirs['mean']) <= 1e-12 and abs(decay - theirs['decay']) <= 1e-12
            # the published table counts sequences, not frames; the two agree wherever
            # all frames are on one side of 0.5
            assert theirs['recall'] == (mean > 0.5) and (
                recall == theirs['recall'] or 0 < (ours > 0.5).sum() < len(ours)
            )


def test_summary_is_the_mean_over_objects(stm):
    result, published = stm
    summary = result.summary()
    for measure in 'JF':
        for number in ('Mean', 'Decay'):
            theirs = np.mean(
                [published[scores.sequence][measure][number.lower()] for scores in result.objects]
            )
            assert abs(summary[f'{measure}-{number}'] - theirs) <= 1e-12
    assert summary['J&F-Mean'] == (summary['J-Mean'] + summary['F-Mean']) / 2


def test_two_objects_as_published(data):
    published = json.loads((data / 'reference/stm-davis2017.json').read_text())
    result = evaluate(data / 'reference/stm-davis2017', data / 'DAVIS/Annotations-2017/480p')
    assert {
        o.name: {'J': round(o.j.mean(), 3), 'F': round(o.f.mean(), 3)} for o in result.objects
    } == published


def test_against_vos_benchmark(data):
    evaluator = pytest.importorskip('vos_benchmark.evaluator').Evaluator()
    folders = (
        data / 'reference/stm-davis2017/bmx-trees',
        data / 'DAVIS/Annotations-2017/480p/bmx-trees',
    )
    for k in (20, 40, 60):
        pred, true = (np.array(Image.open(folder / f'{k:05d}.png')) for folder in folders)
        evaluator.feed_frame(pred, true)
        for object_id, (j, f) in score_frame(pred, true).items():
            assert (
                j == evaluator.object_iou[object_id][-1]
                and abs(f - evaluator.boundary_f[object_id][-1]) < 1e-15
            )


# ---- laws ----


def boundary_f_naive(pred, true):
    "F from all distances between two boundaries."
    a, b = np.argwhere(_boundary(pred)), np.argwhere(_boundary(true))
    near = ((a[:, None] - b) ** 2).sum(2) <= _tolerance(true.shape) ** 2
    precision, recall = near.any(1).mean() if len(a) else 1, near.any(0).mean() if len(b) else 1
    return 2 * precision * recall / (precision + recall) if precision + recall else 0


@st.composite
def masks(draw, count=2, high=40):
    "Masks of one shape, from 1 x 1 on: blobs, noise, nothing or everything."
    height, width = draw(st.integers(1, high)), draw(st.integers(1, high))
    numbers = np.random.default_rng(draw(st.integers(0, 2**32)))
    kinds = draw(
        st.lists(
            st.sampled_from(['blobs', 'noise', 'empty', 'full']), min_size=count, max_size=count
        )
    )
    share = {'blobs': 0.01, 'noise': 0.5, 'empty': 0, 'full': 1}
    drawn = [numbers.random((height, width)) < share[kind] for kind in kinds]
    return [
        _dilate(mask, int(numbers.integers(1, 9))) if kind == 'blobs' else mask
        for kind, mask in zip(kinds, drawn)
    ]


@law(masks())
def test_range_and_symmetry(pair):
    for score in (jaccard, boundary_f):
        assert 0 <= score(*pair) <= 1 and type(score(*pair)) is float
        assert score(*pair) == score(*pair[::-1])
        assert score(*pair) == score(*(mask.T for mask in pair))


@law(masks(count=1))
def test_identity(one):
    assert jaccard(*one, *one) == boundary_f(*one, *one) == 1


@law(masks())
def test_fast_is_naive(pair):
    assert boundary_f(*pair) == boundary_f_naive(*pair)


@law(masks())
def test_jaccard_of_sets(pair):
    pred, true = ({*np.flatnonzero(mask).tolist()} for mask in pair)
    assert jaccard(*pair) == (len(pred & true) / len(pred | true) if pred | true else 1)


@law(masks(count=1))
def test_boundary_pixel_by_pixel(one):
    (mask,) = one
    H, W = mask.shape
    for r, c in np.ndindex(H, W):
        neighbours = [(r, c + 1), (r + 1, c), (r + 1, c + 1)]
        inside = [mask[p] for p in neighbours if p[0] < H and p[1] < W]
        assert _boundary(mask)[r, c] == any(mask[r, c] != other for other in inside)


@law(masks(count=1), st.integers(0, 12))
def test_dilation_is_distance(one, radius):
    (mask,) = one
    points = np.argwhere(mask)
    everywhere = np.stack(np.indices(mask.shape), -1).reshape(-1, 1, 2)
    near = ((everywhere - points) ** 2).sum(-1).min(1, initial=10**6) <= radius**2
    assert (_dilate(mask, radius) == near.reshape(mask.shape)).all()


def test_dilation_at_the_border():
    mask = np.zeros((1, 33), bool)
    mask[0, 0] = True  # a run that the border cuts in half
    for radius in range(33):
        assert _dilate(mask, radius).sum() == radius + 1


@law(masks(count=1, high=30), st.sampled_from([(0, 1), (1, 0), (1, 1), (0, -1), (-1, 0)]))
def test_shift_within_the_tolerance_is_free(one, step):
    far = np.pad(one[0], 60)  # the contour nowhere leaves the picture, whose tolerance is 2 pixels
    assert _tolerance(far.shape) >= 2
    assert boundary_f(np.roll(far, step, (0, 1)), far) == 1


@law(masks())
def test_padding_changes_nothing_inside(pair):
    inner = [np.pad(mask, 1) for mask in pair]
    outer = [np.pad(mask, ((0, 1), (1, 0))) for mask in inner]
    if _tolerance(inner[0].shape) == _tolerance(outer[0].shape):
        assert boundary_f(*inner) == boundary_f(*outer)


@law(masks(count=4))
def test_a_frame_is_its_objects_one_by_one(drawn):
    pred, true = (np.select(drawn[k : k + 3], [1, 2, 3], 0).astype(np.uint8) for k in (0, 1))
    scores = score_frame(pred, true)
    assert list(scores) == sorted({*pred.flat, *true.flat} - {0})
    for k, (j, f) in scores.items():
        assert (j, f) == (jaccard(pred == k, true == k), boundary_f(pred == k, true == k))


@law(masks())
def test_any_two_masks_as_in_vos_benchmark(pair):
    evaluator = pytest.importorskip('vos_benchmark.evaluator').Evaluator()
    pred, true = (mask.astype(np.uint8) for mask in pair)
    evaluator.feed_frame(pred, true)
    theirs = {
        k: (evaluator.object_iou[k][0], evaluator.boundary_f[k][0]) for k in evaluator.object_iou
    }
    assert score_frame(pred, true) == theirs


@law(masks(count=4), st.permutations([1, 2, 3]))
def test_names_of_objects_do_not_matter(drawn, order):
    pred, true = (np.select(drawn[k : k + 3], [1, 2, 3], 0) for k in (0, 1))
    renamed = np.array([0, *order])
    scores, again = score_frame(pred, true), score_frame(renamed[pred], renamed[true])
    assert again == {order[k - 1]: score for k, score in scores.items()}


def test_empty_masks():
    empty, full, some = np.zeros((9, 12), bool), np.ones((9, 12), bool), np.eye(9, 12) > 0
    assert jaccard(empty, empty) == 1 and jaccard(empty, some) == jaccard(some, empty) == 0
    assert boundary_f(empty, empty) == 1 and boundary_f(empty, some) == boundary_f(some, empty) == 0
    assert boundary_f(full, empty) == 1 and jaccard(full, empty) == 0  # neither has a boundary
    for shape in ((1, 1), (1, 7), (7, 1)):
        assert boundary_f(np.ones(shape), np.zeros(shape)) == 1


def test_void_alone_is_no_object():
    nothing, void = np.zeros((4, 5), int), np.full((4, 5), 255)
    for pred, true in ((nothing, void), (void, nothing), (void, void), (nothing, nothing)):
        assert score_frame(pred, true) == {}


def test_the_tolerance_may_be_given():
    true = np.pad(np.ones((20, 20), bool), 20)
    scores = [boundary_f(np.roll(true, 4, 1), true, radius) for radius in range(5)]
    assert scores == sorted(scores) and scores[0] < 0.6 and scores[3] < 1 and scores[4] == 1
    assert boundary_f(true[:-1], true[1:], np.int64(2)) == boundary_f(true[:-1], true[1:], 2)


def test_far_apart_is_zero():
    pred, true = np.zeros((2, 50, 50), bool)
    pred[5, 5] = true[40, 40] = True
    assert boundary_f(pred, true) == boundary_f_naive(pred, true) == jaccard(pred, true) == 0


def test_tensors_and_numbers_are_masks_too():
    true = torch.zeros(6, 8)
    true[2:4, 2:5] = 0.3
    assert jaccard(true, true.numpy() * 7) == boundary_f(true > 0, true.long() + (true > 0)) == 1


@pytest.mark.parametrize('score', [jaccard, boundary_f])
@pytest.mark.parametrize(
    'shapes', [((4, 5), (5, 4)), ((4, 5), (4, 1)), ((1, 4, 5), (1, 4, 5)), ((4,), (4,))]
)
def test_shapes_are_checked(score, shapes):
    with pytest.raises(ValueError) as error:
        score(*map(np.zeros, shapes))
    assert all(str(shape) in str(error.value) for shape in shapes)


# ---- over time ----


@pytest.mark.parametrize('length', [*range(1, 40), 78, 256, 257, 300, 1000, 70_000])
def test_quarters_as_defined(length):
    edges = [
        int(np.floor(1 + (length - 1) * k / 4 + 0.5)) - 1 for k in range(5)
    ]  # halves are rounded up
    assert _quarter_edges(length).tolist() == edges
    assert edges[0] == 0 and edges[-1] == length - 1


def test_decay_of_300_frames():
    values = np.linspace(1, 0, 300)
    by_hand = sum(values[:76]) / 76 - sum(values[224:]) / 76
    assert abs(statistics(values)[2] - by_hand) < 1e-12 and by_hand > 0.7
    values = np.r_[np.ones(257), np.zeros(43)]  # in 8 bits, the last quarter would be empty
    assert abs(statistics(values)[2] - (1 - (257 - 224) / 76)) < 1e-12


def test_recall_is_strict():
    assert statistics([0.5, 0.5, 0.6, 0.4])[1] == 0.25
    assert statistics([0.7]) == (0.7, 1, 0)


@law(st.lists(st.floats(0, 1), min_size=1, max_size=300))
def test_reversed_video_has_the_opposite_decay(values):
    forth, back = statistics(values), statistics(values[::-1])
    assert abs(forth[0] - back[0]) < 1e-9 and forth[1] == back[1]
    edges = _quarter_edges(len(values))
    if edges[4] - edges[3] == edges[1]:
        assert abs(forth[2] + back[2]) < 1e-9


@pytest.mark.parametrize('values', [[], [0.1, float('nan')], [float('inf')], [[0.1], [0.2]], None])
def test_statistics_refuse(values):
    with pytest.raises(ValueError, match='finite'):
        statistics(values)


# ---- folders ----


def save(path, ids, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(ids, np.uint8))
    (picture.convert(mode) if mode else picture).save(path)


def clip(folder, frames=6, value=1, shift=0, second=None):
    "Masks of a square that moves; `second` is the id of another that rests."
    for k in range(frames):
        ids = np.zeros((30, 40), np.uint8)
        if second:
            ids[20:28, 5:12] = second
        ids[5:15, 5 + k + shift : 15 + k + shift] = value
        save(folder / f'{k:05d}.png', ids)
    return folder


@pytest.fixture
def pair(tmp_path):
    return clip(tmp_path / 'pred'), clip(tmp_path / 'true')


def refused(pair, *expected):
    with pytest.raises(ValueError) as error:
        evaluate(*pair)
    for text in expected:
        assert str(text) in str(error.value)


def test_a_root_and_one_sequence_agree(tmp_path):
    for name in ('ant', 'bee'):
        clip(tmp_path / 'true' / name, second=2)
        clip(tmp_path / 'pred' / name, second=2, shift=2 if name == 'ant' else 0)
    both = evaluate(tmp_path / 'pred', str(tmp_path / 'true'))
    assert [scores.name for scores in both.objects] == ['ant_1', 'ant_2', 'bee_1', 'bee_2']
    assert both.objects[0].frames == tuple(f'{k:05d}.png' for k in range(1, 5))
    one = evaluate(tmp_path / 'pred/ant', tmp_path / 'true/ant')
    assert [scores.name for scores in one.objects] == ['ant_1', 'ant_2']
    assert (one.objects[0].j == both.objects[0].j).all() and (one.objects[0].j == 80 / 120).all()
    chosen = evaluate(tmp_path / 'pred', tmp_path / 'true', ['bee'])
    assert [scores.name for scores in chosen.objects] == ['bee_1', 'bee_2']
    assert chosen.summary() == {
        'J&F-Mean': 1,
        'J-Mean': 1,
        'J-Recall': 1,
        'J-Decay': 0,
        'F-Mean': 1,
        'F-Recall': 1,
        'F-Decay': 0,
    }


@pytest.mark.parametrize('values', [(1, 255), (255, 1), (255, 255)])
def test_255_alone_is_object_1(tmp_path, values):
    for folder, value in zip(('pred', 'true'), values):
        clip(tmp_path / folder, value=value)
    (scores,) = evaluate(tmp_path / 'pred', tmp_path / 'true').objects
    assert scores.object_id == 1 and (scores.j == 1).all() and (scores.f == 1).all()


def test_255_beside_ids_is_void(tmp_path):
    clip(tmp_path / 'pred', value=2, second=1)
    for k in range(6):
        ids = np.array(Image.open(clip(tmp_path / 'pred', value=2, second=1) / f'{k:05d}.png'))
        save(
            tmp_path / 'true' / f'{k:05d}.png',
            np.where((ids == 2) & (np.arange(40) > 10 + k), 255, ids),
        )
    assert all(
        (scores.j == 1).all() and (scores.f == 1).all()
        for scores in evaluate(tmp_path / 'pred', tmp_path / 'true').objects
    )


@pytest.mark.parametrize('side', ['true', 'pred'])
def test_a_frame_of_255_alone_is_void_where_another_frame_has_ids(tmp_path, side):
    for folder in ('pred', 'true'):
        clip(tmp_path / folder, value=2)
    files = sorted((tmp_path / side).iterdir())
    save(files[2], np.array(Image.open(files[2])) // 2 * 255)
    (scores,) = evaluate(tmp_path / 'pred', tmp_path / 'true').objects
    assert scores.object_id == 2
    assert scores.j.tolist() == ([1, 0, 1, 1] if side == 'pred' else [1, 1, 1, 1])
    for file in files:
        save(file, np.minimum(np.array(Image.open(file)), 1) * 255)
    with pytest.raises(ValueError, match='got object [12]'):  # without ids, 255 is object 1
        evaluate(tmp_path / 'pred', tmp_path / 'true')


def test_an_unscored_mask_tells_void_from_objects_too(tmp_path):
    for folder in ('pred', 'true'):
        clip(tmp_path / folder, value=3)
    for k in range(1, 6):
        save(tmp_path / 'true' / f'{k:05d}.png', np.full((30, 40), 255))
    (scores,) = evaluate(tmp_path / 'pred', tmp_path / 'true').objects
    assert scores.object_id == 3 and scores.j.tolist() == [1] * 4


def test_void_in_a_prediction_claims_nothing():
    true = np.array([[0, 1, 2, 2]])
    pred = np.array([[255, 1, 2, 255]])
    assert {k: j for k, (j, _) in score_frame(pred, true).items()} == {1: 1, 2: 0.5}


def test_ids_keep_their_gaps_and_16_bits(tmp_path):
    for folder in ('pred', 'true'):
        clip(tmp_path / folder, value=7, second=3)
        for path in (tmp_path / folder).glob('*.png'):
            Image.fromarray(np.array(Image.open(path)).astype(np.uint16) * 100).save(path)
    result = evaluate(tmp_path / 'pred', tmp_path / 'true')
    assert [scores.object_id for scores in result.objects] == [300, 700] and result.summary()[
        'J&F-Mean'
    ] == 1


def test_absent_objects(tmp_path):
    clip(tmp_path / 'true', second=2)
    save(tmp_path / 'true/00002.png', np.zeros((30, 40)))
    shutil.copytree(tmp_path / 'true', tmp_path / 'pred')
    save(tmp_path / 'pred/00003.png', np.zeros((30, 40)))
    for scores in evaluate(tmp_path / 'pred', tmp_path / 'true').objects:
        assert scores.j.tolist() == scores.f.tolist() == [1, 1, 0, 1]


def test_only_scored_frames_are_needed(tmp_path):
    clip(tmp_path / 'true', frames=12)
    clip(tmp_path / 'pred', frames=20)
    for name in ('00000.png', '00011.png'):
        (tmp_path / 'pred' / name).unlink()
    (tmp_path / 'true/.hidden.png').touch()
    assert len(evaluate(tmp_path / 'pred', tmp_path / 'true').objects[0].j) == 10


def test_frames_in_the_order_of_their_numbers(tmp_path):
    for folder in ('pred', 'true'):
        for k in range(12):
            save(tmp_path / folder / f'{k}.png', np.eye(5, 5, k % 3))
    assert evaluate(tmp_path / 'pred', tmp_path / 'true').objects[0].frames == tuple(
        f'{k}.png' for k in range(1, 11)
    )


@pytest.mark.parametrize('workers', [1, 2])
def test_all_objects_as_one(tmp_path, workers):
    "What a benchmark of DAVIS 2016 does with the masks of 2017."
    clip(tmp_path / 'two', second=2)
    clip(tmp_path / 'one', second=1)
    for names in (('two', 'one'), ('one', 'two'), ('two', 'two')):
        folders = [tmp_path / name for name in names]
        (scores,) = evaluate(*folders, workers=workers, single=True).objects
        assert scores.object_id == 1 and scores.j.tolist() == scores.f.tolist() == [1] * 4
    with pytest.raises(ValueError, match=r'got object 2; .* say single \(--single\)$'):
        evaluate(tmp_path / 'two', tmp_path / 'one', workers=workers)
    with pytest.warns(UserWarning, match=r'one: no mask shows two_2; .* say single \(--single\)$'):
        apart = evaluate(tmp_path / 'one', tmp_path / 'two', workers=workers)
    assert apart.objects[1].j.tolist() == [0] * 4


def test_void_is_void_where_all_objects_are_one(tmp_path):
    clip(tmp_path / 'pred', value=5)
    for k in range(6):
        ids = np.array(Image.open(tmp_path / 'pred' / f'{k:05d}.png'))
        unsure = (ids == 5) & (np.arange(40) < 8)
        save(tmp_path / 'true' / f'{k:05d}.png', np.where(unsure, 255, ids))
    (scores,) = evaluate(tmp_path / 'pred', tmp_path / 'true', single=True).objects
    assert scores.j.tolist() == [1] * 4


@pytest.mark.filterwarnings('error')
def test_an_object_that_is_seen_once_is_no_other_object(pair):
    for k in (1, 2, 4):
        save(pair[0] / f'{k:05d}.png', np.zeros((30, 40)))
    assert evaluate(*pair).objects[0].j.tolist() == [0, 0, 1, 0]
    save(pair[0] / '00003.png', np.zeros((30, 40)))
    with pytest.raises(UserWarning, match='pred: no mask shows true_1$'):
        evaluate(*pair, single=True)


def test_of_many_objects_a_few_are_named(tmp_path):
    for k in range(4):
        save(tmp_path / 'true' / f'{k}.png', np.arange(1, 9).reshape(2, 4))
        save(tmp_path / 'pred' / f'{k}.png', np.full((2, 4), 2))
    with pytest.warns(
        UserWarning, match='no mask shows true_1, true_3, true_4, true_5, true_6, ...;'
    ):
        evaluate(tmp_path / 'pred', tmp_path / 'true')


@pytest.mark.parametrize('workers', [1, 2])
def test_sequences_without_a_scored_frame_are_left_out(tmp_path, workers):
    for name, frames in dict(ant=6, short=2, blank=6).items():
        for side in ('true', 'pred'):
            clip(tmp_path / side / name, frames, value=name != 'blank')
    told = f'{tmp_path}/true: expected an object in a frame that is scored, found none in '
    with pytest.warns(UserWarning, match=f'^{told}blank, short; left out$'):
        result = evaluate(tmp_path / 'pred', tmp_path / 'true', workers=workers)
    assert [scores.name for scores in result.objects] == ['ant_1']
    assert result.summary()['J&F-Mean'] == 1
    pred, true = tmp_path / 'pred', tmp_path / 'true'
    refused((pred, true, ['short', 'blank']), f'{told}blank, short')
    refused((pred / 'short', true / 'short'), true / 'short', 'found none in short')


# ---- refusals: each names the file and both values ----


def test_missing_frame(pair):
    (pair[0] / '00003.png').unlink()
    refused(pair, pair[0] / '00003.png', 'has 4 that are scored, 1 of them are missing')


def test_other_size(pair):
    save(pair[0] / '00002.png', np.zeros((15, 40)))
    refused(pair, pair[0] / '00002.png', pair[1] / '00002.png', '(15, 40)', '(30, 40)')


def test_unknown_id(pair):
    save(pair[0] / '00002.png', np.full((30, 40), 5))
    refused(pair, pair[0] / '00002.png', '[1]', 'object 5')


@pytest.mark.parametrize('mode', ['RGB', 'RGBA'])
@pytest.mark.parametrize('side', [0, 1])
def test_colour_masks(pair, side, mode):
    save(pair[side] / '00002.png', np.zeros((30, 40)), mode)
    refused(pair, pair[side] / '00002.png', mode)


def test_broken_file(pair):
    path = pair[0] / '00002.png'
    path.write_bytes(path.read_bytes()[:40])
    refused(pair, path)


def test_folders(pair, tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'file').touch()
    for name in 'nowhere', 'file':
        for folders in (tmp_path / name, pair[1]), (pair[0], tmp_path / name):
            refused(folders, tmp_path / name, 'no such folder')
    refused((pair[0], tmp_path / 'empty'), tmp_path / 'empty', 'found none')


def test_missing_sequence(tmp_path):
    for name in ('ant', 'bee'):
        clip(tmp_path / 'true' / name)
    clip(tmp_path / 'pred/ant')
    refused(
        (tmp_path / 'pred', tmp_path / 'true'),
        tmp_path / 'pred/bee/00001.png',
        'no such mask',
    )
    pred, true = tmp_path / 'pred', tmp_path / 'true'
    refused((pred, true, ['ant', 'wasp']), true / 'wasp', 'found none')


# ---- tables ----


def test_tables(pair, tmp_path):
    result = evaluate(*pair)
    metrics.write_csv(result, tmp_path / 'new/tables')
    metrics.write_csv(result, tmp_path / 'new/tables')  # again, over the old ones
    assert sorted(path.name for path in (tmp_path / 'new/tables').iterdir()) == [
        'global_results.csv',
        'per-sequence_results.csv',
    ]
    with open(tmp_path / 'new/tables/global_results.csv') as file:
        (row,) = csv.DictReader(file)
    assert list(row) == [
        'J&F-Mean',
        'J-Mean',
        'J-Recall',
        'J-Decay',
        'F-Mean',
        'F-Recall',
        'F-Decay',
    ]
    assert {name: float(value) for name, value in row.items()} == result.summary()
    assert (
        tmp_path / 'new/tables/per-sequence_results.csv'
    ).read_text() == 'Sequence,J-Mean,F-Mean\ntrue_1,1.000000,1.000000\n'


def test_tables_need_a_folder(pair, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(ValueError, match='file'):
        metrics.write_csv(evaluate(*pair), tmp_path / 'file')


# ---- YouTube-VOS ----


@pytest.fixture
def pond(tmp_path):
    """Object 1 in frames 0 to 25, lost in the last two; object 2 enters in frame 10.

    Object 3 is seen in the last frame only."""
    for k in range(0, 35, 5):
        true = np.zeros((30, 40), np.uint8)
        true[2:12, 2:12] = 1
        if k >= 10:
            true[20:26, 10:30] = 2
        if k == 30:
            true[15:18, 30:38] = 3
        pred = np.where((true == 1) & (k < 25) | (true == 2) & (np.arange(40) < 20), true, 0)
        if k < 10:
            pred[20:26, 10:30] = 2  # before it is given, object 2 may be anywhere
        save(tmp_path / f'true/pond/{k:05d}.png', true)
        save(tmp_path / f'pred/pond/{k:05d}.png', pred)
    return tmp_path / 'pred', tmp_path / 'true'


def test_objects_are_scored_after_their_first_frame(pond):
    (pond[0] / 'pond/00000.png').unlink()  # given, so not needed
    one, two = evaluate(*pond, protocol='youtube-vos').objects
    assert one.frames == tuple(f'{k:05d}.png' for k in range(5, 35, 5)) and one.j.tolist() == [
        1,
        1,
        1,
        1,
        0,
        0,
    ]
    assert (
        two.frames == tuple(f'{k:05d}.png' for k in range(15, 35, 5))
        and two.j.tolist() == [0.5] * 4
    )


def test_davis_scores_the_same_folder_otherwise(pond):
    with pytest.warns(UserWarning, match='no mask shows pond_3'):
        one, two, three = evaluate(*pond).objects
    assert len(one.j) == len(two.j) == len(three.j) == 5 and two.j.tolist() == [
        0,
        1 / 2,
        1 / 2,
        1 / 2,
        1 / 2,
    ]


def test_objects_of_the_last_frame_alone_leave_nothing_to_score(pond):
    for k in range(0, 30, 5):
        save(pond[1] / f'pond/{k:05d}.png', np.zeros((30, 40)))
    for k in range(0, 35, 5):
        save(pond[0] / f'pond/{k:05d}.png', np.zeros((30, 40)))
    with pytest.raises(ValueError, match='true: .* found none in pond'):
        evaluate(*pond, protocol='youtube-vos')


def test_youtube_refusals(pond):
    with pytest.raises(ValueError, match="'davis' or 'youtube-vos', got 'vos'"):
        evaluate(*pond, protocol='vos')
    (pond[0] / 'pond/00030.png').unlink()  # the last frame is scored too
    message = 'pond/00030.png: no such mask; .* has 6 that are scored, 1 of them are missing'
    with pytest.raises(ValueError, match=message):
        evaluate(*pond, protocol='youtube-vos')
    for path in sorted((pond[1] / 'pond').iterdir())[1:]:
        path.unlink()
    with pytest.raises(ValueError, match='true: expected an object .*, found none in pond$'):
        evaluate(*pond, protocol='youtube-vos')


# ---- several processes ----


def test_workers_change_nothing(tmp_path):
    torch.ones(2000, 2000).mul(2)  # threads that a forked process does not have
    for name in ('ant', 'bee', 'cow'):
        clip(tmp_path / 'true' / name, frames=11, second=2)
        clip(tmp_path / 'pred' / name, frames=11, second=2, shift=len(name))
    one, two = (
        evaluate(tmp_path / 'pred', tmp_path / 'true', workers=workers) for workers in (1, 2)
    )
    assert len(one.objects) == 6
    for ours, theirs in zip(one.objects, two.objects, strict=True):
        assert (ours.name, ours.frames, *ours.j, *ours.f) == (
            theirs.name,
            theirs.frames,
            *theirs.j,
            *theirs.f,
        )


def test_workers_name_the_first_bad_file(pair):
    for name in ('00002.png', '00004.png'):
        save(pair[0] / name, np.zeros((15, 40)))
    with pytest.raises(ValueError) as error:
        evaluate(*pair, workers=2)
    assert str(pair[0] / '00002.png') in str(error.value) and '(15, 40)' in str(error.value)


def test_the_command_counts_all_objects_as_one(tmp_path):
    for name, second in (('two', 2), ('one', 1)):
        clip(tmp_path / name, second=second)
    command = ['evaluate', str(tmp_path / 'two'), str(tmp_path / 'one')]
    refused = invoke(command)
    assert refused.exit_code == 1 and '--single' in refused.stderr
    scored = invoke([*command, '--single'])
    assert scored.exit_code == 0 and 'one_1' in scored.stdout and scored.stdout.count('100.0') == 6
