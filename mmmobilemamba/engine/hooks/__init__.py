"""Hooks for mmpretrain; a config that uses one imports this module through ``custom_imports``."""

from .train_ema_hook import TrainEMAHook

__all__ = ['TrainEMAHook']
