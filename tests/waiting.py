"""Counts where a GPU would be waited for, without one: tensors on the CPU stand for those of a GPU.

What `cpu()` returns, and what is made without a device, lies on the host: it may be read for
nothing. Reading any other tensor waits until the GPU has computed it, and so does every result
whose size depends on values. A copy to the GPU waits unless it is `non_blocking`. torchvision's
NMS counts as one wait.
"""

import traceback
from collections import Counter

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

READS = {'cpu', 'tolist', 'numpy'}  # no dispatcher sees them on the CPU
# the size of the result depends on values
SIZES = {'nonzero', 'masked_select', '_unique2', 'unique_dim', 'unique_consecutive', 'nms'}
SIZES |= {'_local_scalar_dense', 'equal'}  # a number for Python


class Host(torch.Tensor):
    "A tensor in the memory of the host."

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))


def tensors(*trees):
    return [leaf for leaf in tree_leaves(trees) if isinstance(leaf, torch.Tensor)]


def on_host(found):
    return all(isinstance(tensor, Host) for tensor in found)


def to_host(result):
    plain = torch.Tensor
    return tree_map(lambda x: x.as_subclass(Host) if type(x) is plain else x, result)


def to_device(result):
    return tree_map(lambda x: x.as_subclass(torch.Tensor) if type(x) is Host else x, result)


class _Functions(TorchFunctionMode):
    def __init__(self, waits):
        self.waits = waits

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        found, name = tensors(args, kwargs), getattr(function, '__name__', str(function))
        if name in READS and not on_host(found):
            self.waits.add(name)
        result = function(*args, **kwargs)
        if name == 'new_tensor' and not on_host(found):
            self.waits.add(name)
        elif name == 'cpu':
            result = to_host(result.clone())
        elif name == 'to' and isinstance(args[0], Host):
            if on_host(found) and not any(isinstance(a, torch.device | str) for a in args[1:]):
                return to_host(result)  # another type
            if not kwargs.get('non_blocking'):
                self.waits.add('copy')
            result = to_device(result.clone())
        elif found:
            result = to_host(result) if on_host(found) else to_device(result)
        elif kwargs.get('device') is None:
            result = to_host(result)
        return result


class _Operations(TorchDispatchMode):
    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found, name = tensors(args, kwargs), function._schema.name.split('::')[1]
        if not on_host(found):
            if name in SIZES:
                self.waits.add(name)
            elif name in ('index', 'index_put_', 'index_put', '_index_put_impl_'):
                chosen = [i for i in args[1] if i is not None]
                if any(i.dtype in (torch.bool, torch.uint8) for i in chosen):
                    self.waits.add(f'{name} by a mask')
                elif any(isinstance(i, Host) for i in chosen):
                    self.waits.add(f'{name} from the host')
        return function(*args, **(kwargs or {}))


class Waits:
    "`with Waits() as waits:` counts in `waits.count`; `waits.where` says what waited, and where."

    def __enter__(self):
        self.where = Counter()
        self.modes = _Functions(self), _Operations(self)
        for mode in self.modes:
            mode.__enter__()
        return self

    def __exit__(self, *error):
        for mode in reversed(self.modes):
            mode.__exit__(*error)

    @property
    def count(self):
        return sum(self.where.values())

    def add(self, name):
        stack = traceback.extract_stack()
        ours = [f'{f.name}: {f.line}' for f in stack if '/eosvos/' in f.filename] or ['?']
        self.where[f'{name} in {ours[-1]}'] += 1
