"""Mixed precision training on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """mmengine's OptimWrapper with bfloat16 autocast on the CPU.

    Replaces mmengine's AmpOptimWrapper, which requires an accelerator. Parameters, gradients and the state of
    the optimizer stay in float32. The loss is not scaled, because bfloat16 has the range of float32. This is
    only faster on CPUs with bfloat16 instructions (AVX512-BF16, AMX). For evaluation, set ``fp16=True`` in
    ``val_cfg`` or ``test_cfg``, which selects bfloat16 on a CPU. Source:
    https://docs.pytorch.org/docs/stable/amp.html.

    Args:
        **kwargs: Arguments of :class:`mmengine.optim.OptimWrapper`.

    Example:
        >>> optim_wrapper = dict(type='CPUAmpOptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enable autocast in addition to mmengine's context for gradient accumulation."""
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield
