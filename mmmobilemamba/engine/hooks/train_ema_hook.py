"""Exponential moving average (EMA) of the weights during training only."""

from __future__ import annotations

from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.engine import EMAHook


@HOOKS.register_module()
class TrainEMAHook(EMAHook):
    """mmpretrain's EMAHook during training; does nothing when testing a checkpoint.

    Checkpoints store the averaged weights as ``state_dict``, so tests do not need the hook. mmpretrain's
    EMAHook (1.2.0) also copies, loads and swaps the model when testing, which causes these problems:

    - With ``--tta``, the checkpoint has no key of the copy, and random weights are tested silently.
    - With ``evaluate_on_origin``, a second test overwrites the predictions of ``--out`` with those of the
      weights that are not averaged, and ``confusion_matrix.py`` fails.
    - Other checkpoint layouts cannot be loaded.

    Args:
        **kwargs: Arguments of ``mmpretrain.engine.EMAHook``. ``evaluate_on_ema`` and ``evaluate_on_origin``
            only affect validation during training.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.ema_model = None

    def before_run(self, runner: Runner) -> None:
        """Create the averaged model if the run is a training."""
        training = isinstance(runner.optim_wrapper, (OptimWrapper, OptimWrapperDict))
        if training and self.ema_model is None:
            super().before_run(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        """Swap in the averaged weights for validation during training."""
        if self.ema_model is not None:
            super().before_val_epoch(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Restore the trained weights, and validate them with ``evaluate_on_origin``."""
        if self.ema_model is not None:
            super().after_val_epoch(runner, metrics)

    def before_test_epoch(self, runner: Runner) -> None:
        """Swap in the averaged weights for a test after training in the same run."""
        if self.ema_model is not None:
            self._swap_ema_parameters()

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Restore the trained weights."""
        if self.ema_model is not None:
            self._swap_ema_parameters()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load the averaged weights of a checkpoint to resume.

        ``load_from`` already loads the averaged weights, stored as ``state_dict``; the new average starts as
        a copy of the model at the first step. mmpretrain's EMAHook loads ``ema_state_dict`` in that case as
        well, which fails with torch's ``size mismatch`` if the number of classes differs.
        """
        if self.ema_model is None or not runner._resume:
            return
        if 'ema_state_dict' not in checkpoint:
            runner.logger.warning(
                'The checkpoint has no moving average, so it starts anew from the weights: the resumed run '
                'had no TrainEMAHook.'
            )
        super().after_load_checkpoint(runner, checkpoint)
