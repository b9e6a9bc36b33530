"""All that configs for mmdet use: ``custom_imports = dict(imports=['mmmobilemamba.mmdet'])``."""

from .models import dense_heads, necks

__all__ = ['dense_heads', 'necks']
