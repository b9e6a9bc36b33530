"""Classifiers for mmpretrain; ``mmmobilemamba.mmpretrain`` imports this module."""

from .distilled import DistilledClassifier

__all__ = ['DistilledClassifier']
