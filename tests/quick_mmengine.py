"""What is left out of mmengine in tests: half of the time of a short run, and no subject of any test."""

from functools import cache
from types import SimpleNamespace


def leave_out_formatting():
    """Leave configs unformatted, read each metafile once, and collect no garbage, until this process ends.

    A Runner formats its config seven times, at 0.2 to 1 s of CPU each. For each config of another package
    that is named as a base, all metafiles of the package are read. Every dataset collects all garbage.
    """
    from mmengine.config import config, utils
    from mmengine.dataset import base_dataset

    config.FormatCode = lambda text, **_: (text, True)
    utils.load = cache(utils.load)
    base_dataset.gc = SimpleNamespace(collect=int)
