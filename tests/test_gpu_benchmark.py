"The benchmark for a GPU runs to its end in its tiny form, and says what is true."

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
    "What each part found."
    out = tmp_path_factory.mktemp('gpu')
    command = [sys.executable, 'benchmarks/gpu.py', '--tiny', '--device', 'cpu', '--out', out]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr[-3000:]
    found = {file.stem: json.loads(file.read_text()) for file in out.iterdir()}
    errors = {name: about['error'] for name, about in found.items() if 'error' in about}
    assert not errors and all(about['tiny'] for about in found.values())
    return {name: about['rows'] for name, about in found.items()}


def test_an_iteration_has_the_losses_of_torchvision(rows):
    (row,) = rows['iteration']
    assert row['losses'] == pytest.approx(row['peer_losses'], rel=1e-4)
    assert row['ratio'] == pytest.approx(row['seconds'] / row['peer'])


def test_bfloat16_tells_the_truth(rows):
    (row,) = rows['bf16']
    # other proposals are sampled, too
    assert row['cosine_weights'] > 0.7 and row['cosine_rates'] > 0.7
    assert row['iou_of_best_boxes'] > 0.9
    exact, short = row['meta_losses'].values()
    assert short == pytest.approx(exact, rel=0.2) and short != exact


def test_step_by_step_is_unrolled(rows):
    assert [(row['order'], row['way']) for row in rows['meta']] == [
        (order, way) for order in (1, 2) for way in ('step by step', 'unrolled')
    ]
    assert all(row['cosine'] > 1 - 1e-6 for row in rows['meta'] if row['way'] == 'unrolled')


def test_two_processes_give_the_sums_of_one(rows):
    (row,) = rows['processes']
    assert row['tasks'] == 2 and row['difference'] < 1e-5


def test_all_parts_measure(rows):
    assert all(row['seconds'] > 0 for name in ('outer', 'caps', 'following') for row in rows[name])
    assert rows['following'][0]['found'] == rows['following'][0]['frames']
    assert [row['what'] for row in rows['waits']] == ['inner step', 'frame']


def test_an_unknown_part_is_refused():
    command = [sys.executable, 'benchmarks/gpu.py', 'iterations', '--device', 'cpu']
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 2 and 'got iterations' in run.stderr
