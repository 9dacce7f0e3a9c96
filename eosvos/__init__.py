"""One-shot video object segmentation (e-OSVOS): `segment(video, mask)`, `load(name_or_file)`."""
import os

__version__ = "0.1.0"
__all__ = ['Tracker', 'load', 'segment']

# Threads that wait for work must not spin: on a busy machine they would hold up those that have it.
# OpenMP reads this when torch is loaded, so it stands before any import of torch.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')


def __getattr__(name):
    "The names above, loaded when they are asked for: `import eosvos` stays fast."
    if name in __all__:
        from . import follow
        return getattr(follow, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__():
    return [*__all__, '__version__']
