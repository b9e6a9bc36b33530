"""The authors' checkpoints by name: ``mobilemamba://b1`` wherever a checkpoint is asked for.

==========  ===================================================================
``table``   the names, and what is known of each
``files``   where a file is looked for, and under which names
``verify``  whether a file holds what its name promises
``store``   ``fetch``: gives the file of a name
``scheme``  registers ``mobilemamba://`` with mmengine
==========  ===================================================================

Each imports only from those above it.
"""

from .scheme import load_from_mobilemamba
from .store import fetch
from .table import SCHEME, WEIGHTS, Weights, weights_of

__all__ = ['SCHEME', 'WEIGHTS', 'Weights', 'fetch', 'load_from_mobilemamba', 'weights_of']
