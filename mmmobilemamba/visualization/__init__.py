"""Visualizers that require mmseg; imported by ``mmmobilemamba.mmseg``."""

from .seg_visualizer import ContiguousSegVisualizer

__all__ = ['ContiguousSegVisualizer']
