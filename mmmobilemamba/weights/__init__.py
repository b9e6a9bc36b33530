"""The authors' checkpoints by name: ``mobilemamba://b1`` wherever a checkpoint is asked for."""

from .table import SCHEME, WEIGHTS, Weights, weights_of

__all__ = ['SCHEME', 'WEIGHTS', 'Weights', 'weights_of']
