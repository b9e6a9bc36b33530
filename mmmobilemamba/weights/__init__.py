"""The authors' checkpoints by name: ``mobilemamba://b1`` wherever a checkpoint is asked for.

============  ======================================================================
``table``     the names, and what is known of each
``argument``  a checkpoint on a command line: a file or a name
``files``     where a file is looked for, and under which names
``verify``    whether a file holds what its name promises, and has not changed
``download``  from a mirror or Google Drive, whole or not at all
``store``     ``fetch``: the file of a name, downloaded by one process if it is not there
``scheme``    registers ``mobilemamba://`` with mmengine
============  ======================================================================

Each imports only from those above it.
"""

from .argument import checkpoint_argument
from .scheme import load_from_mobilemamba
from .store import fetch
from .table import SCHEME, WEIGHTS, Weights, weights_of

__all__ = [
    'SCHEME',
    'WEIGHTS',
    'Weights',
    'checkpoint_argument',
    'fetch',
    'load_from_mobilemamba',
    'weights_of',
]
