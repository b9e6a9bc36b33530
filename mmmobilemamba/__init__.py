"""MobileMamba for every OpenMMLab codebase: importing this package registers the backbone."""

from . import engine as engine  # registers the schedule, the optimizer wrappers and the Runner
from .compat import allow_runner_checkpoints
from .models import MobileMamba
from .version import __version__

allow_runner_checkpoints()

__all__ = ['MobileMamba', '__version__']
