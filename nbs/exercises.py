"""Exercises that say whether an answer is right: `check('03.1', 0.5)`, `check('03.2', function)`.

A number is compared up to a tolerance, a function with a definition of it on random inputs. The
definitions stand in `checks.py`, a table a page; whoever looks there finds answers, too.
"""

import torch
from torch import Tensor

from eosvos.core import generator


def check(name, answer):
    "Say whether the answer to an exercise is right and, where it is not, what is wrong with it."
    from checks import CHECKS

    said = 'not answered yet.' if answer is ... else CHECKS[name](answer) or 'right.'
    print(f'{name}: {said}')


def number(right, tolerance=0.01):
    "A judge of numbers: right up to a share of the number, 0 for counts."

    def judge(answer):
        try:
            answer = float(answer)
        except (TypeError, ValueError):
            return f'a number is asked for, not {answer!r:.60}.'
        if abs(answer - right) <= tolerance * abs(right):
            return ''
        if right and answer in (2 * right, right / 2):
            return 'not yet: you are off by a factor of two.'
        if tolerance == 0 and abs(answer - right) == 1:
            return 'not yet: you are off by one.'
        return f'not yet: that is too {"much" if answer > right else "little"}.'

    return judge


def like(definition, draw):
    "A judge of functions: like the definition, on the arguments that `draw(generator)` gives."

    def judge(answer):
        if not callable(answer):
            return f'a function is asked for, not {answer!r:.60}.'
        for k in range(20):
            arguments = draw(generator('exercise', k))
            tried = f'Tried with {described(arguments)}.'
            right = definition(*arguments)
            try:
                found = answer(*draw(generator('exercise', k)))
            except Exception as error:  # whatever a reader's function raises is told, not raised
                return f'your function raises {type(error).__name__}: {error}. {tried}'
            if found is None or found is ...:
                return 'not answered yet: your function returns nothing.'
            if trouble := difference(found, right, 1e-4):
                return f'not yet: {trouble} {tried}'
        return ''

    return judge


def difference(found, right, tolerance):
    "What tells two results apart, as a sentence; '' where nothing does."
    if isinstance(right, tuple | list):
        if not isinstance(found, tuple | list) or len(found) != len(right):
            return f'{len(right)} results are asked for.'
        parts = (difference(f, r, tolerance) for f, r in zip(found, right))
        return next((part for part in parts if part), '')
    right = torch.as_tensor(right).detach().double()
    try:
        found = torch.as_tensor(found).detach().double()
    except (TypeError, ValueError, RuntimeError):
        return f'numbers are asked for, not {found!r:.60}.'
    if found.shape != right.shape:
        return f'the result has the shape {tuple(found.shape)}, not {tuple(right.shape)}.'

    def close(a, b):
        return torch.isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)

    if (same := close(found, right)).all():
        return ''
    factor = (found * right).sum() / (right * right).sum()
    if right.numel() > 1 and factor and close(found, factor * right).all():
        return f'each number is {factor:.3g} times the right one.'
    if right.dim() > 1 and found.shape == right.mT.shape and close(found.mT, right).all():
        return 'the last two axes are swapped.'
    if close(found.flatten().sort()[0], right.flatten().sort()[0]).all():
        return 'the numbers are right, but their order is not.'
    place = tuple((~same).nonzero()[0].tolist())
    where = f'at {list(place)} ' if place else ''
    return f'{where}your function gives {found[place]:.4g} instead of {right[place]:.4g}.'


def described(arguments):
    "Arguments in a few words: shapes of tensors, numbers as they are."
    words = []
    for argument in arguments:
        if isinstance(argument, Tensor) and argument.dim():
            words.append(f'a tensor {tuple(argument.shape)}')
        else:
            words.append('a function' if callable(argument) else f'{argument!r:.60}')
    return ', '.join(words)
