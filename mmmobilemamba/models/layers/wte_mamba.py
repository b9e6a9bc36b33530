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
    torch.fx.wrap(leaf)  # leaves in torch.fx graphs, as they depend on sizes and devices


class WTEMamba(nn.Module):
    """Global branch: wavelet transform-enhanced Mamba.

    The scan covers the whole map; a depthwise convolution of the wavelet sub-bands enhances fine edges.
    Both outputs are scaled per channel and added. The weights and the scale of the wavelet branch are in the
    authors' order, with the four sub-bands of a channel adjacent. Source: https://arxiv.org/abs/2411.15941.

    Args:
        channels (int): Channels of the input and output.
        kernel_size (int): Kernel size of the depthwise convolution.
        norm_cfg (dict): Norm layer of the scan branch.

    Attributes:
        backend (str): Backend of the Haar transforms. Defaults to ``'auto'``.
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
        """Initialise the scales: 1 for the scan and 0.1 for the wavelet branch."""
        nn.init.constant_(self.base_scale, 1.0)
        nn.init.constant_(self.wavelet_scale, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return haar_idwt(self.filter_bands(x), self.base_scale * self.ss2d(x), self.backend)

    def filter_bands(self, x: Tensor) -> Tensor:
        """Filtered and scaled sub-bands: (N, C, H, W) -> (N, 4C, ceil(H / 2), ceil(W / 2))."""
        bands = self.wavelet_conv(haar_dwt(x, self.backend))
        scale = band_after_band(self.wavelet_scale.flatten()).view(1, -1, 1, 1)
        return scale.to(bands.dtype) * bands

    def folded(self) -> nn.Module:
        """The deployed form; self if the output projection was not folded or a part was replaced."""
        parts = type(self.ss2d), type(self.wavelet_conv)
        as_made = parts == (SS2D, BandConv) and type(self.ss2d.out_proj) is Conv2d
        return FoldedWTEMamba(self) if as_made else self


class BandConv(nn.Conv2d):
    """Depthwise convolution of the sub-bands between :func:`haar_dwt` and :func:`haar_idwt`.

    The weight is (4C, 1, k, k), with the four sub-bands of a channel adjacent, as in the authors'
    checkpoints.

    Args:
        bands (int): Number of sub-bands, 4C.
        kernel_size (int): Kernel size k, odd.

    Attributes:
        backend (str): Backend of :func:`~mmmobilemamba.ops.depthwise_conv2d`. Defaults to ``'auto'``.
    """

    def __init__(self, bands, kernel_size):
        super().__init__(bands, bands, kernel_size, padding=kernel_size // 2, groups=bands, bias=False)
        self.backend = 'auto'

    def forward(self, bands: Tensor) -> Tensor:
        """(N, 4C, H, W) -> (N, 4C, H, W)."""
        return depthwise_conv2d(bands, band_weight(self.weight), backend=self.backend)


def band_weight(weight: Tensor) -> Tensor:
    """Convert a weight (4C, 1, k, k) from the orthonormal transforms to those of this package.

    The sub-bands are reordered to four blocks of C channels. The factor of 1/4 compensates for the two
    transforms, each of which is twice the orthonormal one.
    """
    return band_after_band(weight * (1 / NUM_BANDS))


def band_after_band(x: Tensor) -> Tensor:
    """Reorder (4C, ...) from adjacent sub-bands per channel, as the authors do, to four blocks of C."""
    return torch.cat([x[band::NUM_BANDS] for band in range(NUM_BANDS)])


class FoldedWTEMamba(nn.Module):
    """WTE-Mamba in the deployed form: both scales are folded into the convolutions, the sub-bands reordered.

    Args:
        source (WTEMamba): The original, with a folded output projection.
    """

    def __init__(self, source):
        super().__init__()
        self.backend = source.backend
        self.ss2d = copy.deepcopy(source.ss2d)
        self.ss2d.out_proj = fold_affine(self.ss2d.out_proj, source.base_scale.flatten())
        weight = source.wavelet_conv.weight
        bands, _, *kernel_size = weight.shape
        with torch.device('meta'):  # skips the random initialisation
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
