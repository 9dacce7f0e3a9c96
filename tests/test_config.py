"Numbers that cannot be meant are refused, whichever configuration holds them (issue: faults)."

from dataclasses import fields, is_dataclass, replace
from math import inf, nan

import pytest

from eosvos.fine_tuning import AugmentConfig, FineTuneConfig
from eosvos.follow import SegmentConfig
from eosvos.parent import ParentConfig
from eosvos.tasks import TaskConfig
from eosvos.train import PRESETS

CONFIGS = [SegmentConfig(), FineTuneConfig(), AugmentConfig(), TaskConfig(), *PRESETS.values()]
SHARES = {'flip', 'colour', 'hue', 'nearness', 'fill', 'paste', 'alike', 'joined', 'ema_decay'}
# 0 would be "nothing at all", or would silently mean "no limit"
POSITIVE = {'steps', 'batch', 'checkpoint_every', 'tests', 'online_every', 'clip', 'max_rate'}


def numbers(config):
    "The fields of one number each, with those that are None for `any`."
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield field.name
        elif value is None and 'float' in str(field.type):
            yield field.name


CASES = [
    pytest.param(config, name, value, id=f'{type(config).__name__}-{i}-{name}={value}')
    for i, config in enumerate(CONFIGS)
    for name in numbers(config)
    for value in [-1, nan, inf] + [1.5] * (name in SHARES) + [0] * (name in POSITIVE)
]


@pytest.mark.parametrize(('config', 'name', 'value'), CASES)
def test_a_number_that_cannot_be_meant(config, name, value):
    with pytest.raises(ValueError, match=f'^{name}: expected .*, got {value}'):
        replace(config, **{name: value})


@pytest.mark.parametrize('config', [TaskConfig(), ParentConfig()])
@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('size', (0, 448)),
        ('size', (256, -1)),
        ('set_weights', (('davis', 0.0),)),
        ('set_weights', (('davis', 0.5), ('ecssd', -0.1))),
        ('set_weights', (('davis', nan),)),
    ],
)
def test_sizes_and_shares_of_sets(config, name, value):
    with pytest.raises(ValueError, match=f'^{name}: expected at least '):
        replace(config, **{name: value})


def test_none_still_means_any():
    for config in CONFIGS:
        for field in fields(config):
            if field.default is None:
                assert getattr(replace(config, **{field.name: None}), field.name) is None
            elif is_dataclass(field.default):
                assert replace(config, **{field.name: field.default})
