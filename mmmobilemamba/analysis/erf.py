"""Effective receptive fields (ERF): how much the centre of a feature map depends on each pixel.

Sources: Luo et al. 2016, https://arxiv.org/abs/1701.04128, for the gradient as the measure, and Ding et al.
2022 (RepLKNet), https://arxiv.org/abs/2203.06717, for the sum of the positive values at the centre and for
the squares that contain given shares of the field. Unlike RepLKNet, which uses the positive part of the
gradient, this module uses its absolute value.
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
    """Compute the effective receptive fields of several feature maps, averaged over images.

    Each image is passed through all networks before the next one, so that errors of any network occur at the
    first image.

    Args:
        extracts (dict[str, Callable]): Functions from images to a map, (N, C, H, W) -> (N, C', H', W'), by
            name. The networks must be in evaluation mode: in training mode, batch norm mixes the images of a
            batch.
        images (Iterable[Tensor]): Batches of images of one size, (N, C, H, W).

    Returns:
        dict[str, ndarray]: A float64 array (H, W) for each name, see :func:`centre_gradient`.

    Raises:
        AnalysisError: If there are no images, or the gradient of a map cannot be computed.

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
    """Compute the gradient of the sum of the positive values at a map's centre, pixel (H' // 2, W' // 2).

    The sum of all values would be constant after a layer norm, as at the end of many transformers.

    Args:
        extract (Callable): Function from images to a map, see :func:`effective_receptive_fields`.
        images (Tensor): Images, (N, C, H, W).

    Returns:
        ndarray: Absolute values of the gradient, summed over the image channels, float64 (N, H, W).

    Raises:
        AnalysisError: If the result of ``extract`` is not a map, or its gradient is missing, zero or not
            finite.
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
            'No gradient of the map reaches the image: part of the network runs under torch.no_grad() or '
            'detaches its output. Use an earlier stage, or run this part with gradients.'
        )
    gradient = found[0].abs().double().sum(1)
    if not gradient.isfinite().all():
        raise AnalysisError(
            'The gradient of the map is not finite: the weights or the image are not finite, or values '
            'overflow. Check the checkpoint, and use float32.'
        )
    if not (gradient.flatten(1).sum(1) > 0).all():
        raise AnalysisError(
            'The gradient of the map is zero in the whole image: no value at its centre is positive, or the '
            'weights are zero. Load a checkpoint, or use other images or another stage.'
        )
    return gradient.cpu().numpy()


def check_map(values: Tensor, images: Tensor) -> None:
    """Check that the output of a network for some images is a feature map of more than one pixel per side.

    Raises:
        AnalysisError: If it is not a map (N, C, H, W), or has a side of one pixel.
    """
    if not isinstance(values, Tensor) or values.ndim != 4:
        what = f'of shape {tuple(values.shape)}' if isinstance(values, Tensor) else type(values).__name__
        raise AnalysisError(
            f'The network returns no map (N, C, H, W) here, but {what}: use another stage, or a config whose '
            f"backbone returns maps, such as out_type='featmap' of mmpretrain's transformers."
        )
    (height, width), size = values.shape[2:], images.shape[2:]
    if min(height, width) < 2:
        raise AnalysisError(
            f'The map has {height} x {width} pixels for an image of {size[0]} x {size[1]}, which is not '
            f'larger than the stride of this stage: use larger images, preferably in multiples of twice '
            f'the stride, or an earlier stage.'
        )


def square_sides(erf: np.ndarray, shares: Sequence[float] = SHARES) -> list[int]:
    """Return the sides of the smallest squares that contain given shares of a field.

    The squares are centred at pixel (H // 2, W // 2).

    Args:
        erf (ndarray): Non-negative field, (H, W).
        shares (Sequence[float]): Shares of its sum, above 0 and up to 1. Defaults to those of RepLKNet.

    Returns:
        list[int]: Odd sides in px; squares can extend beyond the image.

    Raises:
        AnalysisError: If a share is outside this range.
    """
    if not all(0 < share <= 1 for share in shares):
        raise AnalysisError(f'Shares are over 0 and up to 1, not {list(shares)}.')
    height, width = erf.shape
    rows, columns = np.abs(np.arange(height) - height // 2), np.abs(np.arange(width) - width // 2)
    ring = np.maximum(rows[:, None], columns[None])
    within = np.cumsum(np.bincount(ring.ravel(), weights=erf.ravel()))
    # Relative to the sum over all rings, because erf.sum() can be larger by rounding.
    return [2 * int(np.searchsorted(within, share * within[-1])) + 1 for share in shares]
