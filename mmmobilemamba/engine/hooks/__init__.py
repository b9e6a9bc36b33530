"""Hooks for mmpretrain; ``mmmobilemamba.mmpretrain`` imports this module."""

from .train_ema_hook import TrainEMAHook

__all__ = ['TrainEMAHook']
