"""A deployed MobileMamba for one image size, in operators that every runtime supports.

ncnn, MNN, LiteRT, ExecuTorch, Core ML and OpenVINO can convert it. It has no loops, tensors of more than four
axes, transposed convolutions, strided slices, empty tensors, memory formats, or constants shared by two
operators: at least one of these runtimes refuses or silently misreads each of them. Scans are those of
:mod:`~mmmobilemamba.ops.export.walk`; their number of operators grows with the square root of the number of
pixels of a map.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.backbones import MobileMamba
from ..models.layers import SS2D, Conv2d, FoldedMixer, FoldedMKDeConv, FoldedWTEMamba, FusedConv2d, Mixer
from ..models.layers.backend import WITH_BACKEND
from ..ops.export.haar import dwt_weight, idwt_weight, neighbouring_bands
from ..ops.export.scan import softplus as log_softplus
from ..ops.export.walk import chunks_of, pad, scan_both_ways
from .errors import DeploymentError
from .rewrite import is_folded, pad_stem, widen_local_part

SOFTPLUS: dict[str, Callable[[Tensor], Tensor]] = {'operator': F.softplus, 'log': log_softplus}
Sizes = dict[nn.Module, tuple[int, int]]


@torch.no_grad()
def portable(network: nn.Module, image: Tensor, softplus: str = 'operator') -> nn.Module:
    """Copy a network and convert every :class:`~mmmobilemamba.MobileMamba` in it to portable operators.

    The copy is equivalent up to rounding for images of the size of ``image``, with any batch size. Modules
    outside the backbones are not changed.

    Args:
        network (nn.Module): A deployed network: a backbone, a graph of :mod:`.graphs` or any other module.
        image (Tensor): An input of the wanted size. The network is run on it once.
        softplus (str): ``'operator'`` for the runtime's Softplus, or ``'log'`` for
            relu(x) + log(1 + exp(-abs(x))). The latter is faster in ONNX Runtime, because PyTorch's exporter
            adds a comparison to Softplus, but flushes step sizes below 1e-7 to 0. Defaults to ``'operator'``.

    Returns:
        nn.Module: The copy, in evaluation mode, without gradients.

    Raises:
        DeploymentError: If a backbone is not deployed, has a part without a portable form, such as norm
            layers that do not fold, or is applied to images of several sizes.
        ValueError: If ``softplus`` is unknown.
    """
    if softplus not in SOFTPLUS:
        raise ValueError(f'softplus must be one of {sorted(SOFTPLUS)}, not {softplus!r}.')
    network = copy.deepcopy(network).eval()
    if any(isinstance(module, MobileMamba) and not module.deploy for module in network.modules()):
        raise DeploymentError('The backbone is not deployed. Call switch_to_deploy() first.')
    sizes = sizes_of(network, image)
    for module in network.modules():
        if isinstance(module, MobileMamba):
            pad_stem(module.stem)
        if isinstance(module, (Mixer, FoldedMixer)) and isinstance(module.local_op, FoldedMKDeConv):
            widen_local_part(module)
    network = convert(network, sizes, SOFTPLUS[softplus])
    check_converted(network)
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return network.eval().requires_grad_(False)


def sizes_of(network: nn.Module, image: Tensor) -> Sizes:
    """Return height and width of the input of each SS2D and WTE-Mamba of a network (dict by module).

    Raises:
        DeploymentError: If a module is applied to maps of several sizes.
    """
    sizes: Sizes = {}

    def note(module, inputs):
        size = tuple(inputs[0].shape[2:])
        if sizes.setdefault(module, size) != size:
            raise DeploymentError(
                f'A backbone sees images of several sizes, its maps {sizes[module]} and {size}; the portable '
                f'form is for one.'
            )

    modules = [module for module in network.modules() if isinstance(module, (SS2D, FoldedWTEMamba))]
    hooks = [module.register_forward_pre_hook(note) for module in modules]
    try:
        network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return sizes


def convert(module: nn.Module, sizes: Sizes, softplus: Callable[[Tensor], Tensor]) -> nn.Module:
    """Return the portable form of a module; modules of other packages only get their children converted."""
    kind = type(module)
    if kind in (Conv2d, FusedConv2d):
        return PortableConv(module)
    if kind is SS2D and is_folded(module) and module in sizes:
        return PortableSS2D(module, sizes[module], softplus)
    if kind is FoldedWTEMamba and module in sizes:
        return PortableWTEMamba(module, sizes[module], convert(module.ss2d, sizes, softplus))
    for name, child in module.named_children():
        setattr(module, name, convert(child, sizes, softplus))
    if kind is FoldedMKDeConv:
        return PortableMKDeConv(module)
    return PortableBackbone(module) if kind is MobileMamba else module


def check_converted(network: nn.Module) -> None:
    """Check that no module is left that chooses its implementation at run time.

    Raises:
        DeploymentError: If there is one.
    """
    for path, module in network.named_modules():
        if isinstance(module, (MobileMamba, FoldedMKDeConv, *WITH_BACKEND)):
            raise DeploymentError(
                f'{path or "The network"} ({type(module).__name__}) has no portable form: it is of a class '
                f'of its own, the image does not reach it, or its norm layers do not fold into convolutions, '
                f'as batch norm does.'
            )


class PortableBackbone(nn.Module):
    """MobileMamba without memory formats.

    Args:
        source (MobileMamba): A backbone whose layers are already portable.
    """

    def __init__(self, source):
        super().__init__()
        self.stem, self.stages, self.out_indices = source.stem, source.stages, source.out_indices

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, in_channels, H, W) -> a map (N, C, H', W') of each stage in ``out_indices``."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps[index] for index in self.out_indices)


class PortableConv(nn.Module):
    """PyTorch's convolution followed by the source's activation and shortcut.

    Args:
        source (Conv2d): The convolution, fused or not.
    """

    def __init__(self, source):
        super().__init__()
        self.conv = plain_conv(source, source.weight, source.bias)
        fused = isinstance(source, FusedConv2d)
        self.activation = {'relu': nn.ReLU, 'silu': nn.SiLU, None: nn.Identity}[
            source.activation if fused else None
        ]()

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """(N, C, H, W), and optionally a shortcut of the output's shape -> (N, C', H', W')."""
        x = self.activation(self.conv(x))
        return x if shortcut is None else shortcut + x


class PortableMKDeConv(nn.Module):
    """Deployed MK-DeConv: a depthwise convolution, a product and a sum.

    Args:
        source (FoldedMKDeConv): The layer; its convolution is already portable.
    """

    def __init__(self, source):
        super().__init__()
        self.dwconv, self.scale, self.shift = source.dwconv, source.scale, source.shift

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return self.dwconv(x) * self.scale + self.shift


class PortableSS2D(nn.Module):
    """SS2D of a deployed network for maps of one size.

    Args:
        source (SS2D): The layer, with batch norms folded.
        size (tuple[int, int]): Height and width of the maps.
        softplus (Callable): One of the values of ``SOFTPLUS``.
    """

    def __init__(self, source, size, softplus):
        super().__init__()
        self.size, self.softplus = size, softplus
        self.chunks = chunks_of(size[0] * size[1])
        self.rank, self.inner = source.dt_rank, source.dt_proj_bias.shape[1]
        halves = zip(source.in_proj.weight.chunk(2), source.in_proj.bias.chunk(2))
        self.u_proj, self.z_proj = (plain_conv(source.in_proj, *half) for half in halves)
        # Without the SiLU: it is cheaper in the layout of the scan.
        self.dwconv = plain_conv(source.dwconv, source.dwconv.weight, source.dwconv.bias)
        steps, B, C = source.x_proj_weight.split([self.rank, 1, 1], dim=1)
        self.x_proj = linear(torch.cat([part.flatten(0, 1) for part in (steps, B, C)]))
        self.dt_proj = linear(torch.block_diag(*source.dt_proj_weight), source.dt_proj_bias.flatten())
        if self.chunks.length > 1:  # otherwise an unused constant
            A = -source.A_log.exp().view(2, -1)
            self.A_forward, self.A_backward = (nn.Parameter(x.clone()) for x in A)
        self.D = nn.Parameter(source.D.view(2, -1).sum(0))
        norm = source.out_norm
        self.out_norm = nn.LayerNorm(norm.normalized_shape, norm.eps, device='meta')
        self.out_norm.weight, self.out_norm.bias = (nn.Parameter(x.clone()) for x in norm.parameters())
        self.out_proj = plain_conv(source.out_proj, source.out_proj.weight, source.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        height, width = self.size
        u, z = self.dwconv(self.u_proj(x)), self.z_proj(x)
        u, gate = (
            F.silu(part.permute(0, 2, 3, 1).reshape(-1, height * width, self.inner)) for part in (u, z)
        )
        y = self.out_norm(self.scan(u)) * gate
        return self.out_proj(y.reshape(-1, height, width, self.inner).permute(0, 3, 1, 2))

    def scan(self, u: Tensor) -> Tensor:
        """Scan in both directions, (N, L, E) -> (N, L, E)."""
        padded = pad(u, self.chunks)
        step, *B_and_C = self.x_proj(padded).split([2 * self.rank, 1, 1, 1, 1], dim=2)
        delta = self.softplus(self.dt_proj(step)).split(self.inner, dim=2)
        A = (self.A_forward, self.A_backward) if self.chunks.length > 1 else None
        y = scan_both_ways(padded, delta, B_and_C[:2], B_and_C[2:], A, self.chunks, self.inner)
        return self.D * u + (y[:, : self.chunks.length] if self.chunks.padding else y)


class PortableWTEMamba(nn.Module):
    """Deployed WTE-Mamba for maps of one size; the wavelet becomes convolutions and a pixel shuffle.

    Args:
        source (FoldedWTEMamba): The layer, not converted yet.
        size (tuple[int, int]): Height and width of the maps.
        ss2d (nn.Module): Its SS2D, converted.
    """

    def __init__(self, source, size, ss2d):
        super().__init__()
        self.size, self.ss2d = size, ss2d
        conv = source.wavelet_conv
        bands = conv.out_channels
        channels = bands // 4
        self.dwt = nn.Conv2d(channels, bands, 2, stride=2, groups=channels, bias=False, device='meta')
        self.wavelet_conv = plain_conv(conv, neighbouring_bands(conv.weight), None)
        self.idwt = nn.Conv2d(bands, bands, 1, groups=channels, bias=False, device='meta')
        self.dwt.weight = nn.Parameter(dwt_weight(conv.weight))
        self.idwt.weight = nn.Parameter(idwt_weight(conv.weight))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        height, width = self.size
        odd = height % 2 or width % 2
        bands = self.dwt(F.pad(x, (0, width % 2, 0, height % 2)) if odd else x)
        details = F.pixel_shuffle(self.idwt(self.wavelet_conv(bands)), 2)
        return (details[:, :, :height, :width] if odd else details) + self.ss2d(x)


def plain_conv(source: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """Build PyTorch's convolution with the settings of ``source`` and copies of the given weights."""
    conv = nn.Conv2d(
        weight.shape[1] * source.groups,
        len(weight),
        source.kernel_size,
        source.stride,
        source.padding,
        source.dilation,
        source.groups,
        bias is not None,
        source.padding_mode,
        device='meta',  # skips the random initialisation
    )
    conv.weight = nn.Parameter(weight.clone())
    conv.bias = None if bias is None else nn.Parameter(bias.clone())
    return conv


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """Build a linear layer from a weight (outputs, inputs) and a bias (outputs,)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device='meta')
    layer.weight = nn.Parameter(weight)
    layer.bias = None if bias is None else nn.Parameter(bias)
    return layer
