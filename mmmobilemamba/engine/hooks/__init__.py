"""Hooks that require mmpretrain; imported by ``mmmobilemamba.mmpretrain``."""

from .train_ema_hook import TrainEMAHook

__all__ = ['TrainEMAHook']
