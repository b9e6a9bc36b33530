"""MobileMamba for every OpenMMLab codebase.

Importing this package registers all components that need only mmengine in its root registries: the backbone,
``match_widths``, the schedule, the optimizer wrappers and the Runner. It also allows ``torch.load`` to read
checkpoints of the Runner, and mmengine to load the authors' weights by name (``mobilemamba://b1``).
"""

from . import engine as engine  # registers the schedule, the optimizer wrappers and the Runner
from . import weights as weights  # registers mobilemamba:// with mmengine's CheckpointLoader
from .compat import allow_runner_checkpoints
from .create import create_model
from .models import MobileMamba
from .version import __version__

allow_runner_checkpoints()

__all__ = ['MobileMamba', '__version__', 'create_model']
