"""The authors' checkpoints by name, such as ``mobilemamba://b1``, wherever a checkpoint is expected.

============  ======================================================================
``table``     the names and their metadata
``argument``  a checkpoint on the command line: a file or a name
``files``     folders and file names that are searched
``verify``    checks that a file has the expected weights and has not changed
``download``  atomic download from a mirror or Google Drive
``store``     ``fetch``: the file of a name, downloaded by one process if necessary
``scheme``    registers ``mobilemamba://`` with mmengine
============  ======================================================================

Each module only imports modules above it.
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
