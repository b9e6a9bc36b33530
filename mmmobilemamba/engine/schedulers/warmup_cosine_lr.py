"""Cosine learning rate schedule whose cosine starts together with the warm-up."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.param_scheduler import INF
from mmengine.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(_ParamScheduler):
    r"""Linear warm-up followed by a cosine that is counted from the start of the warm-up.

    This is the schedule of the paper's classification runs. With t the number of steps since ``begin`` and lr
    the base learning rate of a parameter group, the learning rate is:

    - for t < warmup: :math:`lr (s + (1 - s) t / warmup)`, where s is ``start_factor``;
    - afterwards: :math:`lr (m + (1 - m) (1 + \cos(\pi t / T_{max})) / 2)`, where m is ``eta_min_ratio``;
    - from ``T_max`` on: lr * m.

    The learning rate therefore drops slightly at the end of the warm-up. mmengine's LinearLR followed by
    CosineAnnealingLR(begin=warmup) has no such drop, and its learning rate is up to 11 % higher. All values
    are computed from the base learning rate, so other schedulers for the same steps are overridden. As with
    mmengine's schedulers, a resumed run keeps the lengths of the original run.

    Source: ``CosineLRScheduler`` of timm without ``warmup_prefix``
    (https://timm.fast.ai/SGDR), in the recipe of https://github.com/lewandofskee/MobileMamba.

    Args:
        optimizer (Optimizer | BaseOptimWrapper): The optimizer or optimizer wrapper.
        warmup (int): Length of the warm-up; 0 disables it. Like ``T_max``, ``begin`` and ``end``, in epochs
            if ``by_epoch``, otherwise in iterations.
        T_max (int, optional): End of the cosine, counted from ``begin`` and including the warm-up. Defaults
            to None, which means ``end - begin``.
        start_factor (float): Ratio of the learning rate at step 0 to the base one. Defaults to 1e-3.
        eta_min_ratio (float): Ratio of the final learning rate to the base one. Defaults to 1e-2.
        begin (int): First scheduled step. Defaults to 0.
        end (int): First step after the schedule. Defaults to 1e9, or in a config to the last epoch or
            iteration of the Runner.
        last_step (int): Index of the last completed step, to resume without a state. Defaults to -1, none.
        by_epoch (bool): Whether a step is an epoch. With ``convert_to_iter_based=True`` in the config,
            lengths are in epochs but a step is an iteration. Defaults to True.
        verbose (bool): Whether to log each value. Defaults to False.

    Raises:
        TypeError, ValueError: If an argument is invalid.

    Example:
        >>> param_scheduler = dict(type='WarmupCosineLR', warmup=20, T_max=300, convert_to_iter_based=True)
    """

    def __init__(
        self,
        optimizer,
        warmup,
        T_max=None,
        start_factor=1e-3,
        eta_min_ratio=1e-2,
        begin=0,
        end=INF,
        last_step=-1,
        by_epoch=True,
        verbose=False,
    ):
        if T_max is None and end >= INF:
            raise ValueError('WarmupCosineLR needs T_max, or an end to take it from.')
        T_max = end - begin if T_max is None else T_max
        for name, value in dict(warmup=warmup, T_max=T_max).items():
            if isinstance(value, bool) or not isinstance(value, Real):
                raise TypeError(f'{name} must be a number of epochs or iterations, not {value!r}.')
        if not 0 <= warmup < T_max:
            raise ValueError(
                f'warmup must be 0 or more and end before T_max, but warmup is {warmup} and T_max {T_max} '
                f'({"epochs" if by_epoch else "iterations"}): shorten the warm-up or train for longer.'
            )
        if not all(isinstance(share, Real) and 0 <= share <= 1 for share in (start_factor, eta_min_ratio)):
            raise ValueError(
                f'start_factor and eta_min_ratio are shares of the base learning rate, from 0 to 1, not '
                f'{start_factor!r} and {eta_min_ratio!r}.'
            )
        self.warmup = warmup
        self.T_max = T_max
        self.start_factor = start_factor
        self.eta_min_ratio = eta_min_ratio
        super().__init__(
            optimizer, 'lr', begin=begin, end=end, last_step=last_step, by_epoch=by_epoch, verbose=verbose
        )

    @classmethod
    def build_iter_from_epoch(
        cls,
        *args: Any,
        warmup: float,
        T_max: float | None = None,
        begin: float = 0,
        end: float = INF,
        by_epoch: bool = True,
        epoch_length: int | None = None,
        **kwargs: Any,
    ) -> WarmupCosineLR:
        """Build an iteration-based scheduler from lengths in epochs.

        Args:
            warmup, T_max, begin, end (float): As for the class; fractions of an epoch are allowed.
            by_epoch (bool): Must be True. Defaults to True.
            epoch_length (int): Iterations per epoch, passed by the Runner.
            *args: Other arguments of the class.
            **kwargs: Other arguments of the class.

        Raises:
            ValueError: If ``by_epoch`` is False, or ``epoch_length`` is missing or 0.
        """
        if not by_epoch:
            raise ValueError('convert_to_iter_based is for lengths in epochs: remove it, or by_epoch=False.')
        if epoch_length == 0:
            raise ValueError(
                'An epoch has no iteration: there are fewer images than train_dataloader.batch_size, and '
                'drop_last=True leaves them out. Set a smaller batch_size, or drop_last=False, or repeat the '
                "dataset: dict(type='RepeatDataset', times=..., dataset=...)."
            )
        if not epoch_length or epoch_length < 0:
            raise ValueError(f'epoch_length must be the iterations of an epoch, not {epoch_length!r}.')
        return cls(
            *args,
            warmup=int(warmup * epoch_length),
            T_max=None if T_max is None else int(T_max * epoch_length),
            begin=int(begin * epoch_length),
            end=end if end == INF else int(end * epoch_length),
            by_epoch=False,
            **kwargs,
        )

    def _get_value(self):
        """Return the learning rate of each parameter group at ``last_step``."""
        if self.last_step < self.warmup:
            factor = self.start_factor + (1 - self.start_factor) * self.last_step / self.warmup
        else:
            done = min(self.last_step / self.T_max, 1)
            factor = self.eta_min_ratio + (1 - self.eta_min_ratio) * (1 + math.cos(math.pi * done)) / 2
        return [base * factor for base in self.base_values]
