"""Effective receptive fields: which pixels the centre of a map depends on, and how much.

Source: Luo et al. 2016, https://arxiv.org/abs/1701.04128, who took the gradient for the measure, and Ding et
al. 2022 (RepLKNet), https://arxiv.org/abs/2203.06717, for the sum over the positive values of the centre, and
for the squares that hold shares of the field. Here the gradient counts by its absolute value; RepLKNet counts
its positive part alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from .errors import AnalysisError

SHARES = (0.2, 0.3, 0.5, 0.99)  # of RepLKNet


def effective_receptive_fields(
    extracts: Mapping[str, Callable[[Tensor], Tensor]], images: Iterable[Tensor]
) -> dict[str, np.ndarray]:
    """How much the centre of each of several maps depends on every pixel, on average over images.

    Each image goes through all networks before the next one, so that one of them that cannot be looked into
    is found at the first image.

    Args:
        extracts (dict[str, Callable]): Functions of images that give a map each, (N, C, H, W) ->
            (N, C', H', W'), in evaluation: in training, batch norm mixes the images of a batch.
        images (Iterable[Tensor]): Batches of images of one size, (N, C, H, W).

    Returns:
        dict[str, ndarray]: float64 (H, W) each, see :func:`centre_gradient`.

    Raises:
        AnalysisError: If there are no images, or a map has no such gradient.

    Example:
        >>> backbone = MobileMamba('t2').eval()
        >>> extracts = {'stage 0': lambda images: backbone.extract(images, (0,))[0]}
        >>> effective_receptive_fields(extracts, [torch.rand(1, 3, 256, 256)])['stage 0'].shape
        (256, 256)
    """
    totals: dict[str, np.ndarray] = {}
    count = 0
    for batch in images:
        for name, extract in extracts.items():
            try:
                gradient = centre_gradient(extract, batch).sum(0)
            except AnalysisError as error:
                raise AnalysisError(f'{name}: {error}') from error
            totals[name] = totals[name] + gradient if count else gradient
        count += len(batch)
    if not count:
        raise AnalysisError('There are no images to average over: give at least one.')
    return {name: total / count for name, total in totals.items()}


def centre_gradient(extract: Callable[[Tensor], Tensor], images: Tensor) -> np.ndarray:
    """Gradient of the sum of the positive values of a map's centre, pixel (H' // 2, W' // 2).

    The sum of all would be constant after a layer norm, as at the end of many transformers.

    Args:
        extract (Callable): See :func:`effective_receptive_fields`.
        images (Tensor): (N, C, H, W).

    Returns:
        ndarray: Absolute values, summed over the channels of the images, float64 (N, H, W).

    Raises:
        AnalysisError: If there is no map or no gradient, or it is zero or not finite.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        values = extract(leaf)
        check_map(values, leaf)
        centre = values[:, :, values.shape[2] // 2, values.shape[3] // 2].relu().sum()
        found = (None,)
        if centre.requires_grad:
            found = torch.autograd.grad(centre, leaf, allow_unused=True)
    if found[0] is None:
        raise AnalysisError(
            'No gradient of the map reaches the image: a part of the network runs under torch.no_grad() or '
            'detaches what it computes. Take an earlier stage, or let this part run with gradients.'
        )
    gradient = found[0].abs().double().sum(1)
    if not gradient.isfinite().all():
        raise AnalysisError(
            'The gradient of the map has values that are not finite: the weights or the image have such, or '
            'the values overflow. Check the checkpoint, and take float32.'
        )
    if not (gradient.flatten(1).sum(1) > 0).all():
        raise AnalysisError(
            'The gradient of the map is zero in the whole image, as where no value of its centre is positive '
            'or the weights are zero. Load a checkpoint, or take other images or another stage.'
        )
    return gradient.cpu().numpy()


def check_map(values: Tensor, images: Tensor) -> None:
    """Make sure that what a network gives for images has a centre and a surrounding.

    Raises:
        AnalysisError: If it is no map (N, C, H, W), or is one of a single pixel a side.
    """
    if not isinstance(values, Tensor) or values.ndim != 4:
        what = f'of shape {tuple(values.shape)}' if isinstance(values, Tensor) else type(values).__name__
        raise AnalysisError(
            f'The network gives no map (N, C, H, W) here, but {what}: take another stage, or a config whose '
            f"backbone gives maps, such as out_type='featmap' of mmpretrain's transformers."
        )
    (height, width), size = values.shape[2:], images.shape[2:]
    if min(height, width) < 2:
        raise AnalysisError(
            f'The map has {height} x {width} pixels for an image of {size[0]} x {size[1]}, which is not '
            f'larger than the stride of this stage: give larger images, best by multiples of twice the '
            f'stride, or take an earlier stage.'
        )


def square_sides(erf: np.ndarray, shares: Sequence[float] = SHARES) -> list[int]:
    """Sides of the smallest squares around the centre, pixel (H // 2, W // 2), that hold shares of a field.

    Args:
        erf (ndarray): Not negative, (H, W).
        shares (Sequence[float]): Of its sum, over 0 and up to 1. Defaults to those of RepLKNet.

    Returns:
        list[int]: In pixels, each odd; the part of a square beyond the image is empty.

    Raises:
        AnalysisError: If a share is not in that range.
    """
    if not all(0 < share <= 1 for share in shares):
        raise AnalysisError(f'Shares are over 0 and up to 1, not {list(shares)}.')
    height, width = erf.shape
    rows, columns = np.abs(np.arange(height) - height // 2), np.abs(np.arange(width) - width // 2)
    ring = np.maximum(rows[:, None], columns[None])
    within = np.cumsum(np.bincount(ring.ravel(), weights=erf.ravel()))
    # Rounding leaves the sum of all rings as the largest that can be reached.
    return [2 * int(np.searchsorted(within, share * within[-1])) + 1 for share in shares]
