"""WTE-Mamba: wavelet transform-enhanced Mamba."""

import torch
from torch import Tensor, nn

from mmmobilemamba.ops import depthwise_conv2d, haar_dwt, haar_filter, haar_idwt

from .conv import Conv2d
from .fold import fold_affine
from .ss2d import SS2D

NUM_BANDS = 4


class WTEMamba(nn.Module):
    """Global branch: wavelet transform-enhanced Mamba.

    The scan sees the whole map, the depthwise convolution on the wavelet sub-bands its fine
    edges; both are scaled channel by channel and added. The weights and the scale of the wavelet branch
    are in the authors' order, in which the four sub-bands of a channel are neighbours.
    """

    def __init__(self, channels, kernel_size, norm_cfg):
        super().__init__()
        bands = NUM_BANDS * channels
        self.ss2d = SS2D(channels, norm_cfg)
        self.wavelet_conv = BandConv(bands, kernel_size)
        self.base_scale = nn.Parameter(torch.empty(1, channels, 1, 1))
        self.wavelet_scale = nn.Parameter(torch.empty(1, bands, 1, 1))
        self.reset_parameters()

    def reset_parameters(self):
        """Start with little of the wavelet branch."""
        nn.init.constant_(self.base_scale, 1.0)
        nn.init.constant_(self.wavelet_scale, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        backend = self.ss2d.backend
        bands = self.wavelet_conv(haar_dwt(x, backend), self.wavelet_scale, backend)
        return haar_idwt(bands, self.base_scale * self.ss2d(x), backend)

    def folded(self):
        """The form for inference; as it is where the norm layer of ``ss2d`` is none that folds."""
        return FoldedWTEMamba(self) if isinstance(self.ss2d.out_proj, nn.Conv2d) else self


class BandConv(nn.Conv2d):
    """Depthwise convolution on the bands of :func:`haar_dwt`, for :func:`haar_idwt`, scaled.

    The weights are (4C, 1, k, k), the four bands of a channel adjacent, as in the authors' checkpoints.
    """

    def __init__(self, bands, kernel_size):
        super().__init__(bands, bands, kernel_size, padding=kernel_size // 2, groups=bands, bias=False)

    def forward(self, bands: Tensor, scale: Tensor, backend='auto') -> Tensor:
        """(N, 4C, H, W), scale (1, 4C, 1, 1) -> (N, 4C, H, W)."""
        return depthwise_conv2d(bands, band_weight(self.weight, scale), backend=backend)


def band_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """Weights (4C, 1, k, k) of the orthonormal transform, for one with the bands one after the other.

    A quarter of them makes up for the transforms, each of which is twice the orthonormal one.
    """
    weight = weight * (scale.view(-1, 1, 1, 1) / NUM_BANDS)
    return weight.unflatten(0, (-1, NUM_BANDS)).transpose(0, 1).flatten(0, 1)


class FoldedWTEMamba(nn.Module):
    """WTE-Mamba for inference: both scales are in the convolutions, whose bands follow one another."""

    def __init__(self, source):
        super().__init__()
        self.ss2d = source.ss2d
        self.ss2d.out_proj = fold_affine(self.ss2d.out_proj, source.base_scale.flatten())
        weight = source.wavelet_conv.weight
        bands, _, *kernel_size = weight.shape
        with torch.device('meta'):  # without weights, to which it would draw random numbers
            self.wavelet_conv = Conv2d(bands, bands, kernel_size[0], groups=bands, bias=False)
        self.wavelet_conv.backend = self.ss2d.backend
        scaled = band_weight(weight.double(), source.wavelet_scale.double())
        self.wavelet_conv.weight = nn.Parameter(scaled, requires_grad=weight.requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        backend = self.ss2d.backend
        if backend == 'export':
            return haar_filter(x, self.wavelet_conv.weight, self.ss2d(x))
        bands = self.wavelet_conv(haar_dwt(x, backend))
        return haar_idwt(bands, self.ss2d(x), backend)
