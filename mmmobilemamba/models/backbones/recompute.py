"""Activation checkpointing that does not update batch statistics twice."""

from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def frozen_statistics(module: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Contexts for the forward pass and the recomputation of ``torch.utils.checkpoint``.

    The recomputation runs the module a second time, which would update its running statistics twice per
    iteration. Therefore it runs with momentum 0 and a temporary counter. It still normalises with the batch
    and saves the same tensors, as ``checkpoint`` requires.

    Args:
        module (nn.Module): The module that is recomputed.

    Returns:
        tuple: The two context managers.
    """
    return nullcontext(), _without_momentum(module)


@contextmanager
def _without_momentum(module):
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, momentum, counter in before:
            norm.momentum, norm.num_batches_tracked = momentum, counter
