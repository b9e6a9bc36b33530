"""MobileMamba for every OpenMMLab codebase.

Importing this package registers in mmengine's root registries what needs no codebase: the backbone, models
whose widths follow it, the schedule, optimizer wrappers and the Runner; and it lets torch read the Runner's
checkpoints.
"""

from . import engine as engine  # registers the schedule, the optimizer wrappers and the Runner
from .compat import allow_runner_checkpoints
from .models import MobileMamba
from .version import __version__

allow_runner_checkpoints()

__all__ = ['MobileMamba', '__version__']
