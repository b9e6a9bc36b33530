"""Components for mmpretrain; in a config: ``custom_imports = dict(imports=['mmmobilemamba.mmpretrain'])``.

To register the classifiers in mmpretrain's model hub, import :mod:`mmmobilemamba.zoo`.
"""

from . import datasets
from .engine import hooks
from .models import classifiers, heads

__all__ = ['classifiers', 'datasets', 'heads', 'hooks']
