"""Exercises that say whether an answer is right: `check('03.1', 0.5)`, or `check('03.2', function)`.

A number is compared up to a tolerance, a function with a definition of it on random inputs. The
definitions stand in `checks.py`, a table a page; whoever looks there finds answers, too.
"""

from copy import deepcopy

import torch
from torch import Tensor

from eosvos.core import generator


def check(name, answer):
    "Say whether the answer to an exercise is right and, where it is not, what is wrong with it."
    from checks import CHECKS

    if name not in CHECKS:
        raise KeyError(f'no exercise {name}; this page has others: look at its number')
    print(f'{name}: {CHECKS[name](answer) or "right."}')


def number(right, tolerance=0.01):
    "A judge of numbers: right up to a share of the number, 0 for counts."

    def judge(answer):
        try:
            answer = float(answer)
        except (TypeError, ValueError):
            return f'a number is asked for, not {answer!r}.'
        if abs(answer - right) <= tolerance * abs(right):
            return ''
        if right and answer in (2 * right, right / 2):
            return 'not yet: you are off by a factor of two.'
        if tolerance == 0 and abs(answer - right) == 1:
            return 'not yet: you are off by one.'
        return f'not yet: that is too {"much" if answer > right else "little"}.'

    return judge


def like(definition, draw, use=lambda answer: answer, tolerance=1e-4, times=20):
    "A judge of functions, or of what `use` makes of one: as the definition on arguments drawn."

    def judge(answer):
        if not callable(answer):
            return f'a function is asked for, not {answer!r}.'
        for k in range(times):
            arguments = draw(generator('exercise', k))
            right = definition(*deepcopy(arguments))
            try:
                found = use(answer)(*deepcopy(arguments))
            except Exception as error:  # whatever a reader's function raises is told, not raised
                return f'your function raises {type(error).__name__}: {error}'
            if trouble := difference(found, right, tolerance):
                return f'not yet: {trouble} Tried with {described(arguments)}.'
        return ''

    return judge


def difference(found, right, tolerance):
    "What tells two results apart, as a sentence; '' where nothing does."
    if isinstance(right, tuple | list):
        if not isinstance(found, tuple | list) or len(found) != len(right):
            return f'{len(right)} results are asked for.'
        parts = (difference(f, r, tolerance) for f, r in zip(found, right))
        return next((part for part in parts if part), '')
    if found is None or found is ...:
        return 'your function returns nothing.'
    found, right = (torch.as_tensor(o).detach().double() for o in (found, right))
    if found.shape != right.shape:
        shapes = f'{tuple(found.shape)}, not {tuple(right.shape)}'
        return f'the result has the shape {shapes}.'
    close = torch.isclose(found, right, rtol=tolerance, atol=tolerance, equal_nan=True)
    if close.all():
        return ''
    some = right.abs() > tolerance
    ratio = (found[some] / right[some]).flatten()
    if some.any() and (ratio - ratio[0]).abs().max() < 1e-3 and ratio[0].abs() > 1e-3:
        return f'each number is {ratio[0]:.3g} times the right one.'
    if right.dim() > 1 and found.shape == right.mT.shape and torch.allclose(found.mT, right):
        return 'the last two axes are swapped.'
    if torch.allclose(found.flatten().sort()[0], right.flatten().sort()[0], atol=tolerance):
        return 'the numbers are right, but their order is not.'
    place = tuple((~close).nonzero()[0].tolist())
    where = f'at {list(place)} ' if place else ''
    return f'{where}your function gives {found[place]:.4g} instead of {right[place]:.4g}.'


def described(arguments):
    "Arguments in a few words: shapes of tensors, other things as they are."
    words = []
    for argument in arguments:
        shape = tuple(argument.shape) if isinstance(argument, Tensor) else ()
        words.append(f'a tensor {shape}' if shape else f'{argument!r:.60}')
    return ', '.join(words)
