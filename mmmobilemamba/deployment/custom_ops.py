"""Networks with operators of this package for ONNX Runtime.

The operators are not standard: they are of the domain ``mmmobilemamba`` and need the library of
:func:`~mmmobilemamba.ops.cpu.build.find_library`, in which ``csrc/onnx_operators.cpp`` defines them. Their
inputs and outputs have the channels last, the layout of their kernels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.layers import SS2D, FoldedWTEMamba, fuse
from .errors import DeploymentError
from .rewrite import Form, halves_of, is_folded, rewrite

DOMAIN, VERSION = 'mmmobilemamba', 1
KERNEL_SIZES = (3, 5, 7)  # of the depthwise kernel
LEAST_BANDS = 16  # its least number of channels


def operator(name: str, x: Tensor, *others: Tensor, **attributes: Any) -> Tensor:
    """An operator of this package in an exported graph; in PyTorch, its result has the right shape only.

    Args:
        name (str): Its name.
        x (Tensor): The first input, which has shape and dtype of the output.
        *others (Tensor): Further inputs.
        **attributes: Attributes of the node.
    """
    return torch.onnx.ops.symbolic(
        f'{DOMAIN}::{name}', (x, *others), attributes, dtype=x.dtype, shape=x.shape, version=VERSION
    )


class CustomSS2D(nn.Module):
    """SS2D of a deployed network with the scan and the gated norm as one operator each.

    Args:
        source (SS2D): The layer, with batch norms folded.
    """

    def __init__(self, source):
        super().__init__()
        self.u_proj, self.z_proj = halves_of(source.in_proj)
        self.dwconv = fuse(source.dwconv)  # without the SiLU: it is cheaper with the channels last
        self.x_proj_weight = nn.Parameter(source.x_proj_weight.flatten(0, 1).clone())
        self.dt_proj_weight, self.dt_proj_bias = source.dt_proj_weight, source.dt_proj_bias
        self.A = nn.Parameter(-source.A_log.exp().view(source.dt_proj_bias.shape))
        self.D = nn.Parameter(source.D.view(source.dt_proj_bias.shape).clone())
        self.out_norm, self.out_proj = source.out_norm, source.out_proj

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        u, z = self.dwconv(self.u_proj(x)).permute(0, 2, 3, 1), self.z_proj(x).permute(0, 2, 3, 1)
        u, norm = F.silu(u), self.out_norm
        x_dbl = F.linear(u, self.x_proj_weight)
        y = operator('SelectiveScan', u, x_dbl, self.dt_proj_weight, self.A, self.D, self.dt_proj_bias)
        y = operator('NormGate', y, norm.weight, norm.bias, z, eps=norm.eps)
        return self.out_proj(y.permute(0, 3, 1, 2))


class CustomWTEMamba(nn.Module):
    """Deployed WTE-Mamba with its wavelet branch as one operator.

    Args:
        source (FoldedWTEMamba): The layer; its SS2D is already converted.
    """

    def __init__(self, source):
        super().__init__()
        self.ss2d = source.ss2d
        self.weight = nn.Parameter(source.wavelet_conv.weight[:, 0].permute(1, 2, 0).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        base = self.ss2d(x).permute(0, 2, 3, 1)
        return operator('HaarFilter', x.permute(0, 2, 3, 1), self.weight, base).permute(0, 3, 1, 2)


def custom_ss2d(source: SS2D) -> nn.Module | None:
    """The form of an SS2D, or None if its batch norms are not folded."""
    return CustomSS2D(source) if is_folded(source) else None


def custom_wte_mamba(source: FoldedWTEMamba) -> nn.Module | None:
    """The form of a WTE-Mamba, or None if no kernel fits its convolution."""
    conv = source.wavelet_conv
    fits = conv.kernel_size[0] in KERNEL_SIZES and conv.out_channels >= LEAST_BANDS
    return CustomWTEMamba(source) if fits else None


def with_custom_ops(network: nn.Module) -> nn.Module:
    """Copy a network and convert the deployed layers of MobileMamba in it to operators of this package.

    The copy is for export: in PyTorch its outputs have the right shapes only. It has no fixed image size.

    Args:
        network (nn.Module): A network with deployed backbones; not modified.

    Raises:
        DeploymentError: If no layer can be converted.
    """
    forms: dict[type, Form] = {SS2D: custom_ss2d, FoldedWTEMamba: custom_wte_mamba}
    form = rewrite(network, forms)
    if not any(isinstance(module, (CustomSS2D, CustomWTEMamba)) for module in form.modules()):
        raise DeploymentError(
            'It has no layer to which --custom-ops applies: those of a MobileMamba whose norm layers fold '
            'into convolutions, as batch norm does.'
        )
    return form
