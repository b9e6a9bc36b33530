"""What may follow a convolution: an activation, and then a shortcut that is added."""

from functools import partial
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = dict(relu=partial(F.relu, inplace=True), silu=F.silu)


def check_activation(activation: Optional[str]) -> None:
    """Make sure that there is such an activation.

    Raises:
        ValueError: If there is not.
    """
    if activation is not None and activation not in ACTIVATIONS:
        raise ValueError(f'activation must be None or one of {sorted(ACTIVATIONS)}, not {activation!r}.')


def apply_epilogue(x: Tensor, activation: Optional[str], shortcut: Optional[Tensor]) -> Tensor:
    """``activation(x) + shortcut`` of the shape of ``x``, where either may be None; may change ``x``.

    Raises:
        ValueError: If the shortcut has another shape.
    """
    if activation is not None:
        x = ACTIVATIONS[activation](x)
    if shortcut is None:
        return x
    if not torch.jit.is_tracing():  # which would record the comparison
        check_shortcut(shortcut, x.shape)
    return shortcut + x


def check_shortcut(shortcut: Tensor, shape: tuple[int, ...]) -> None:
    """Make sure that a shortcut has the shape of the output.

    Raises:
        ValueError: If it has not.
    """
    if shortcut.shape != shape:
        raise ValueError(
            f'shortcut must have the shape {tuple(shape)} of the output, not {tuple(shortcut.shape)}.'
        )
