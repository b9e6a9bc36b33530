"""MobileMamba for every OpenMMLab codebase.

Importing this package registers in mmengine's root registries what needs no codebase: the backbone, models
whose widths follow it, the schedule, optimizer wrappers and the Runner; it lets torch read the Runner's
checkpoints, and mmengine load the authors' by name (``mobilemamba://b1``).
"""

from . import engine as engine  # registers the schedule, the optimizer wrappers and the Runner
from . import weights as weights  # registers mobilemamba:// with mmengine's CheckpointLoader
from .compat import allow_runner_checkpoints
from .create import create_model
from .models import MobileMamba
from .version import __version__

allow_runner_checkpoints()

__all__ = ['MobileMamba', '__version__', 'create_model']
