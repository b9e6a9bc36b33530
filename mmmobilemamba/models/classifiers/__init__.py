"""Classifiers for mmpretrain; a config that uses one imports this module through ``custom_imports``."""

from .distilled import DistilledClassifier

__all__ = ['DistilledClassifier']
