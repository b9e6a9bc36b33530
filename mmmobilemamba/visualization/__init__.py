"""Visualizers for mmseg; ``mmmobilemamba.mmseg`` imports this module."""

from .seg_visualizer import ContiguousSegVisualizer

__all__ = ['ContiguousSegVisualizer']
