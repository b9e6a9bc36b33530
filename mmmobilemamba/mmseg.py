"""Components for mmseg; in a config: ``custom_imports = dict(imports=['mmmobilemamba.mmseg'])``."""

from importlib.util import find_spec

from . import visualization

if find_spec('mmdet'):  # the necks need its FPN
    from .models import necks as necks

__all__ = ['visualization']
