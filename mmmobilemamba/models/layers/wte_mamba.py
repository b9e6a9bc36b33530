"""WTE-Mamba: wavelet transform-enhanced Mamba."""

import copy

import torch
from torch import Tensor, nn

from mmmobilemamba.ops import depthwise_conv2d, haar_dwt, haar_filter, haar_idwt
from mmmobilemamba.ops.tracing import is_exported

from .conv import Conv2d
from .fold import fold_affine
from .ss2d import SS2D

NUM_BANDS = 4

for leaf in ('depthwise_conv2d', 'haar_dwt', 'haar_filter', 'haar_idwt'):
    torch.fx.wrap(leaf)  # one node in a graph of torch.fx, as they look at sizes and devices


class WTEMamba(nn.Module):
    """Global branch: wavelet transform-enhanced Mamba.

    The scan sees the whole map, the depthwise convolution on the wavelet sub-bands its fine
    edges; both are scaled channel by channel and added. The weights and the scale of the wavelet branch
    are in the authors' order, in which the four sub-bands of a channel are neighbours.

    Attributes:
        backend (str): Of the Haar transforms; ``'auto'`` unless changed.
    """

    def __init__(self, channels, kernel_size, norm_cfg):
        super().__init__()
        bands = NUM_BANDS * channels
        self.backend = 'auto'
        self.ss2d = SS2D(channels, norm_cfg)
        self.wavelet_conv = BandConv(bands, kernel_size)
        self.base_scale = nn.Parameter(torch.empty(1, channels, 1, 1))
        self.wavelet_scale = nn.Parameter(torch.empty(1, bands, 1, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with little of the wavelet branch."""
        nn.init.constant_(self.base_scale, 1.0)
        nn.init.constant_(self.wavelet_scale, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return haar_idwt(self.filter_bands(x), self.base_scale * self.ss2d(x), self.backend)

    def filter_bands(self, x: Tensor) -> Tensor:
        """The sub-bands of ``x`` (N, C, H, W) as :func:`haar_idwt` takes them, filtered and scaled."""
        bands = self.wavelet_conv(haar_dwt(x, self.backend))
        scale = band_after_band(self.wavelet_scale.flatten()).view(1, -1, 1, 1)
        return scale.to(bands.dtype) * bands

    def folded(self) -> nn.Module:
        """The deployed form; as it is where ``ss2d`` ends in no convolution, or a part was replaced."""
        parts = type(self.ss2d), type(self.wavelet_conv)
        as_made = parts == (SS2D, BandConv) and type(self.ss2d.out_proj) is Conv2d
        return FoldedWTEMamba(self) if as_made else self


class BandConv(nn.Conv2d):
    """Depthwise convolution on the bands of :func:`haar_dwt`, for :func:`haar_idwt`.

    The weights are (4C, 1, k, k), the four bands of a channel adjacent, as in the authors' checkpoints.

    Attributes:
        backend (str): Of :func:`~mmmobilemamba.ops.depthwise_conv2d`; ``'auto'`` unless changed.
    """

    def __init__(self, bands, kernel_size):
        super().__init__(bands, bands, kernel_size, padding=kernel_size // 2, groups=bands, bias=False)
        self.backend = 'auto'

    def forward(self, bands: Tensor) -> Tensor:
        """(N, 4C, H, W) -> (N, 4C, H, W)."""
        return depthwise_conv2d(bands, band_weight(self.weight), backend=self.backend)


def band_weight(weight: Tensor) -> Tensor:
    """Weights (4C, 1, k, k) of the orthonormal transform, for one with the bands one after the other.

    A quarter of them makes up for the transforms, each of which is twice the orthonormal one.
    """
    return band_after_band(weight * (1 / NUM_BANDS))


def band_after_band(x: Tensor) -> Tensor:
    """From the authors' order, the four bands of a channel adjacent, to that of the maps: (4C, ...)."""
    return torch.cat([x[band::NUM_BANDS] for band in range(NUM_BANDS)])


class FoldedWTEMamba(nn.Module):
    """WTE-Mamba in the deployed form: both scales are in the convolutions, whose bands follow one another."""

    def __init__(self, source):
        super().__init__()
        self.backend = source.backend
        self.ss2d = copy.deepcopy(source.ss2d)
        self.ss2d.out_proj = fold_affine(self.ss2d.out_proj, source.base_scale.flatten())
        weight = source.wavelet_conv.weight
        bands, _, *kernel_size = weight.shape
        with torch.device('meta'):  # without weights, to which it would draw random numbers
            self.wavelet_conv = Conv2d(bands, bands, kernel_size[0], groups=bands, bias=False)
        self.wavelet_conv.backend = source.wavelet_conv.backend
        scaled = band_weight(weight.double() * source.wavelet_scale.double().view(-1, 1, 1, 1))
        self.wavelet_conv.weight = nn.Parameter(scaled, requires_grad=weight.requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if self.backend == 'export' or (self.backend == 'auto' and is_exported()):
            return haar_filter(x, self.wavelet_conv.weight, self.ss2d(x))
        return haar_idwt(self.filter_bands(x), self.ss2d(x), self.backend)

    def filter_bands(self, x: Tensor) -> Tensor:
        """As :meth:`WTEMamba.filter_bands`."""
        return self.wavelet_conv(haar_dwt(x, self.backend))
