"""Activation checkpointing that leaves batch statistics alone."""

from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def frozen_statistics(module: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Contexts for forward and for the recomputation of ``torch.utils.checkpoint``.

    The recomputation runs the module a second time, which would update its running statistics
    twice an iteration. With momentum 0 and a counter to throw away it normalises with the batch all the same,
    and saves the same tensors, which ``checkpoint`` insists on.
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
