"""Epilogue of a convolution: an activation, then the addition of a shortcut."""

from functools import partial
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = dict(relu=partial(F.relu, inplace=True), silu=F.silu)


def check_activation(activation: Optional[str]) -> None:
    """Check the name of an activation.

    Raises:
        ValueError: If it is neither None nor a key of ``ACTIVATIONS``.
    """
    if activation is not None and activation not in ACTIVATIONS:
        raise ValueError(f'activation must be None or one of {sorted(ACTIVATIONS)}, not {activation!r}.')


def apply_epilogue(x: Tensor, activation: Optional[str], shortcut: Optional[Tensor]) -> Tensor:
    """``activation(x) + shortcut``; either may be None. May modify ``x`` in place.

    Args:
        x (Tensor): (N, C, H, W).
        activation (str | None): A key of ``ACTIVATIONS``.
        shortcut (Tensor | None): (N, C, H, W).

    Returns:
        Tensor: (N, C, H, W).

    Raises:
        ValueError: If the shortcut does not have the shape of ``x``.
    """
    if activation is not None:
        x = ACTIVATIONS[activation](x)
    if shortcut is None:
        return x
    if not torch.jit.is_tracing():  # tracing would record the comparison
        check_shortcut(shortcut, x.shape)
    return shortcut + x


def check_shortcut(shortcut: Tensor, shape: tuple[int, ...]) -> None:
    """Check that a shortcut has the shape of the output.

    Raises:
        ValueError: If the shapes differ.
    """
    if shortcut.shape != shape:
        raise ValueError(
            f'shortcut must have the shape {tuple(shape)} of the output, not {tuple(shortcut.shape)}.'
        )
