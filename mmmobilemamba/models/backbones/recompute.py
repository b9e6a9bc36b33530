"""Activation checkpointing that leaves batch statistics alone."""

from contextlib import contextmanager, nullcontext

from torch.nn.modules.batchnorm import _BatchNorm


def frozen_statistics(module):
    """Contexts for forward and for the recomputation of ``torch.utils.checkpoint``.

    The recomputation runs the module a second time, which would update its running statistics
    twice an iteration. Not tracking them meanwhile normalises with the batch all the same.
    """
    return nullcontext(), _not_tracking(module)


@contextmanager
def _not_tracking(module):
    norms = [
        m for m in module.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
