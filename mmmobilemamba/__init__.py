"""MobileMamba for every OpenMMLab codebase: importing this package registers the backbone."""

from .compat import allow_runner_checkpoints
from .models import MobileMamba
from .version import __version__

allow_runner_checkpoints()

__all__ = ['MobileMamba', '__version__']
