"""All that configs for mmseg use: ``custom_imports = dict(imports=['mmmobilemamba.mmseg'])``."""

from importlib.util import find_spec

from . import visualization

if find_spec('mmdet'):  # whose FPN the necks build on
    from .models import necks as necks

__all__ = ['visualization']
