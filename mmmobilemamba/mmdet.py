"""Components for mmdet; in a config: ``custom_imports = dict(imports=['mmmobilemamba.mmdet'])``."""

from .models import dense_heads, necks

__all__ = ['dense_heads', 'necks']
