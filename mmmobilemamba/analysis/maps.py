"""Colours feature maps by principal components, and extracts wavelet sub-bands."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models import MobileMamba
from ..models.layers import FoldedWTEMamba, WTEMamba
from ..ops import haar_dwt
from .errors import AnalysisError

BANDS = ('average', 'rows', 'columns', 'diagonal')  # in the order of haar_dwt
COLORS = 3
OUTLIERS = 0.01  # fraction of pixels clipped at either end of a component, for more contrast


def pca_colors(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Colour maps by the first three principal components of all pixels in the batch.

    The sign of each component is chosen so that its largest weight is positive. Missing components, for maps
    of fewer than three channels, are 0.5 everywhere.

    Args:
        maps (Tensor): Feature maps, (N, C, H, W).

    Returns:
        tuple[Tensor, Tensor]: RGB (N, H, W, 3) from 0 to 1, and the fraction of the variance of each
        component (3,), both on the CPU.

    Raises:
        AnalysisError: If all pixels are equal, or a value is not finite.
    """
    pixels = maps.detach().double().cpu().permute(0, 2, 3, 1)
    samples = pixels.flatten(0, 2)
    samples = samples - samples.mean(0)
    if not samples.isfinite().all():
        raise AnalysisError('The map has values that are not finite: check the checkpoint and the images.')
    _, sizes, components = torch.linalg.svd(samples, full_matrices=False)
    variances = sizes.square()
    if not variances[0] > 1e-20 * pixels.square().sum():
        raise AnalysisError('All pixels of the map are equal, so it has no components: use larger images.')
    components = components[:COLORS]
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    scores = samples @ (components * largest.sign()).T
    low, high = (scores.quantile(share, dim=0) for share in (OUTLIERS, 1 - OUTLIERS))
    colors = ((scores - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    absent = COLORS - len(components)
    colors = torch.cat([colors, colors.new_full((len(colors), absent), 0.5)], dim=1)
    shares = torch.cat([variances[:COLORS] / variances.sum(), variances.new_zeros(absent)])
    return colors.view(*pixels.shape[:3], COLORS).float(), shares


def find_global_branch(backbone: MobileMamba, stage: int, block: int) -> WTEMamba | FoldedWTEMamba:
    """Return the WTE-Mamba of a block.

    Args:
        backbone (MobileMamba): The backbone, in training or deployed form.
        stage (int): Index of the stage, from 0.
        block (int): Index of the block in the stage, from 0.

    Raises:
        AnalysisError: If the block does not exist.
    """
    depths = [len(each.blocks) for each in backbone.stages]
    if not 0 <= stage < len(depths) or not 0 <= block < depths[stage]:
        raise AnalysisError(
            f'There is no block {block} in a stage {stage}: the network has '
            f'{", ".join(f"{depth} in stage {index}" for index, depth in enumerate(depths))}, from 0 up.'
        )
    modules = backbone.stages[stage].blocks[block].modules()
    return next(module for module in modules if isinstance(module, (WTEMamba, FoldedWTEMamba)))


def global_input(backbone: MobileMamba, images: Tensor, stage: int, block: int) -> Tensor:
    """Return the input of a block's WTE-Mamba: the channels of the global part, (N, C, H, W).

    Args:
        backbone (MobileMamba): The backbone, in training or deployed form, in evaluation mode.
        images (Tensor): Normalised images, (N, in_channels, H, W).
        stage, block (int): See :func:`find_global_branch`.

    Raises:
        AnalysisError: If the block does not exist.
    """
    taken: list[Tensor] = []

    def take(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        taken.append(inputs[0])

    hook = find_global_branch(backbone, stage, block).register_forward_pre_hook(take)
    try:
        with torch.no_grad():
            backbone.extract(images, (stage,))
    finally:
        hook.remove()
    return taken[0]


@torch.no_grad()
def sub_bands(branch: WTEMamba | FoldedWTEMamba, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the four wavelet sub-bands of a map before and after the filters of WTE-Mamba.

    Args:
        branch (WTEMamba | FoldedWTEMamba): The module from :func:`find_global_branch`.
        x (Tensor): Its input, (N, C, H, W), see :func:`global_input`.

    Returns:
        tuple[Tensor, Tensor]: Sub-bands before and after, (N, 4, C, ceil(H / 2), ceil(W / 2)), in the order
        of ``BANDS`` and the scale of the orthonormal Haar transform. WTE-Mamba adds the inverse transform of
        the filtered sub-bands to the output of the scan.
    """
    # haar_dwt returns twice the orthonormal transform, and haar_idwt twice its inverse.
    return _by_band(haar_dwt(x) / 2), _by_band(2 * branch.filter_bands(x))


def _by_band(bands: Tensor) -> Tensor:
    """(N, 4C, H, W) -> (N, 4, C, H, W)."""
    return bands.unflatten(1, (len(BANDS), -1))
