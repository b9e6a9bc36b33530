"""Moving average of the weights that leaves tests alone."""

from __future__ import annotations

from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.engine import EMAHook


@HOOKS.register_module()
class TrainEMAHook(EMAHook):
    """mmpretrain's EMAHook in a training, and nothing in a test.

    What it saves as ``state_dict`` is the average, so a test needs no hook to see it. mmpretrain's own
    (1.2.0) makes a copy of the model for a test, too, and loads and swaps it: with ``--tta`` no name of
    the copy is in the checkpoint, and random weights are tested without a word; with
    ``evaluate_on_origin`` a second test replaces what ``--out`` wrote by the predictions of the weights
    that are not averaged, and ``confusion_matrix.py`` stops; other layouts of a checkpoint do not load.

    Args:
        **kwargs: Those of ``mmpretrain.engine.EMAHook``; ``evaluate_on_ema`` and ``evaluate_on_origin``
            are about validation during training.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.ema_model = None

    def before_run(self, runner: Runner) -> None:
        """Start the average, if this is a training."""
        training = isinstance(runner.optim_wrapper, (OptimWrapper, OptimWrapperDict))
        if training and self.ema_model is None:
            super().before_run(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        """Show the average to the validation of a training."""
        if self.ema_model is not None:
            super().before_val_epoch(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Put the trained weights back, and validate them if that is wanted."""
        if self.ema_model is not None:
            super().after_val_epoch(runner, metrics)

    def before_test_epoch(self, runner: Runner) -> None:
        """Show the average to a test that follows on a training."""
        if self.ema_model is not None:
            self._swap_ema_parameters()

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Put the trained weights back."""
        if self.ema_model is not None:
            self._swap_ema_parameters()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Go on with the average of a checkpoint that is resumed.

        What ``load_from`` loads is the average already, in ``state_dict``: the new average starts as a copy
        of the model, at its first step. mmpretrain's own loads ``ema_state_dict`` then, too, which ends in
        torch's ``size mismatch`` where the number of classes is another.
        """
        if self.ema_model is None or not runner._resume:
            return
        if 'ema_state_dict' not in checkpoint:
            runner.logger.warning(
                'The checkpoint holds no moving average, so it starts anew from the weights: the run that is '
                'resumed had no TrainEMAHook.'
            )
        super().after_load_checkpoint(runner, checkpoint)
