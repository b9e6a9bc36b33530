"""Mixed precision on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """mmengine's OptimWrapper, with the forward pass under bfloat16 autocast of the CPU.

    mmengine's AmpOptimWrapper refuses to start without an accelerator, so this one runs a mixed
    precision recipe where there is none. Parameters, their gradients and the optimizer's state stay
    float32; bfloat16 has the range of float32, so the loss needs no scaling. Faster only on a CPU with
    bfloat16 instructions (AVX512-BF16, AMX). For evaluation set ``fp16=True`` in ``val_cfg`` or
    ``test_cfg``, which means bfloat16 on a CPU. Source: https://docs.pytorch.org/docs/stable/amp.html.

    Args:
        **kwargs: Those of :class:`mmengine.optim.OptimWrapper`.

    Example:
        >>> optim_wrapper = dict(type='CPUAmpOptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast the forward pass of ``model``, after what gradient accumulation needs."""
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield
