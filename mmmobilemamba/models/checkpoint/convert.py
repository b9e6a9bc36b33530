"""Converts state dicts from the authors' layout to that of this package."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .layout import describe, is_authors, is_fused
from .names import HEAD_RENAMES, rename
from .read import CheckpointError

HAAR_FILTERS = ('.wt_filter', '.iwt_filter')


def convert_backbone(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the entries of a backbone from the authors' layout; other state dicts are returned unchanged.

    Args:
        state_dict (dict[str, Tensor]): Result of :func:`backbone_part`. A head in the authors' layout is
            dropped.

    Returns:
        dict[str, Tensor]: The same tensors under the names of this package, without the constant Haar
        filters.

    Raises:
        CheckpointError: If the authors' checkpoint is fused or its wavelet is not Haar.
    """
    if not is_authors(state_dict):
        return dict(state_dict)
    if is_fused(state_dict):
        raise CheckpointError(
            f'This looks like {describe(state_dict)}. Folding batch norm cannot be undone: load the '
            f'checkpoint from which it was made.'
        )
    converted = {}
    for key, value in state_dict.items():
        if key.endswith(HAAR_FILTERS):
            _check_haar(key, value)
        elif not key.startswith('head.'):
            converted[rename(key)] = value
    return converted


def _check_haar(key: str, filters: Tensor) -> None:
    """Check for Haar filters: average, rows, columns and diagonal of each channel, with taps of +-1/2."""
    signs = [[[1, 1], [1, 1]], [[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]]
    haar = 0.5 * torch.tensor(signs, dtype=torch.float32, device=filters.device)
    found = filters.detach().float().reshape(-1, 4, 2, 2)
    if not torch.allclose(found, haar.expand_as(found), rtol=0, atol=1e-4):
        raise CheckpointError(f'{key} is not the Haar wavelet (db1), the only one that MobileMamba uses.')


def convert_head(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Head of a classifier in the authors' layout, under the names of ``MobileMambaClsHead``.

    Args:
        state_dict (dict[str, Tensor]): A classifier in the authors' layout.

    Returns:
        dict[str, Tensor]: The head, {} if there is none.
    """
    return {rename(key, HEAD_RENAMES): value for key, value in state_dict.items() if key.startswith('head.')}
