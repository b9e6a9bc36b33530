"""All that configs for mmpretrain use: ``custom_imports = dict(imports=['mmmobilemamba.mmpretrain'])``.

The names of our classifiers in mmpretrain's model hub are entered by :mod:`mmmobilemamba.zoo`.
"""

from . import datasets
from .engine import hooks
from .models import classifiers, heads

__all__ = ['classifiers', 'datasets', 'heads', 'hooks']
