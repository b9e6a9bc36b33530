"""Visualizers for mmseg; a config that uses one imports this module through ``custom_imports``."""

from .seg_visualizer import ContiguousSegVisualizer

__all__ = ['ContiguousSegVisualizer']
