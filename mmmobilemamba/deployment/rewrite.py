"""Rewrites a deployed MobileMamba into an equivalent form that is faster in ONNX Runtime.

ONNX Runtime computes convolutions in blocks of channels. It excludes convolutions whose input channels are
not a multiple of 4, and these take twice as long: dense ones with at least one block of channels, and all
depthwise ones. Source: nchwc_transformer.cc of https://github.com/microsoft/onnxruntime. The remaining
operators are memory-bound: their cost is the number and size of the tensors they read and write. For figures,
see docs/performance.md.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.backbones import MobileMamba
from ..models.layers import SS2D, Conv2d, FoldedMixer, FoldedMKDeConv, FusedConv2d, Mixer, fuse
from ..ops.export.scan import both_directions, join_bias, merge_directions, scan_as_walked

MULTIPLE = 4  # of channels
Form = Callable[[Any], 'nn.Module | None']


@torch.no_grad()
def rewrite(network: nn.Module, forms: Mapping[type, Form] | None = None) -> nn.Module:
    """Copy a network and rewrite the deployed layers in it; the copy is equivalent up to rounding.

    Scans use the export form regardless of ``scan_backend``, in the dtype of the network.

    Args:
        network (nn.Module): A network with deployed backbones; not modified.
        forms (dict, optional): Functions that make the replacement of a layer, by its class, or return None
            to keep it. Defaults to :func:`exported` for SS2D.
    """
    network, forms = copy.deepcopy(network), forms or {SS2D: exported}
    for module in reversed(list(network.modules())):  # inner layers first
        if isinstance(module, MobileMamba):
            pad_stem(module.stem)
        if isinstance(module, (Mixer, FoldedMixer)) and isinstance(module.local_op, FoldedMKDeConv):
            widen_local_part(module)
        for name, child in module.named_children():
            made = [form(child) for kind, form in forms.items() if isinstance(child, kind)]
            if made and made[0] is not None:
                setattr(module, name, made[0].train(child.training))
    return network


def exported(ss2d: SS2D) -> nn.Module | None:
    """The form of an SS2D in standard operators (ExportedSS2D), or None if its batch norms are not folded."""
    return ExportedSS2D(ss2d) if is_folded(ss2d) else None


def is_folded(ss2d: SS2D) -> bool:
    """Whether the batch norms and the SiLU of an SS2D are folded into its convolutions (bool)."""
    projections = type(ss2d.in_proj), type(ss2d.out_proj)
    return projections == (Conv2d, Conv2d) and type(ss2d.dwconv) is FusedConv2d


def pad_stem(stem: nn.Sequential) -> None:
    """Pad the channels between the convolutions of a stem with zeros to a multiple of 4, in place.

    Stems with layers other than convolutions and ReLU are not changed: a norm that is not folded could make
    the added channels non-zero.
    """
    convs = [layer for layer in stem if isinstance(layer, nn.Conv2d)]
    others = [layer for layer in stem if not isinstance(layer, (nn.Conv2d, nn.ReLU, nn.Identity))]
    if others or any(conv.bias is None or conv.groups > 1 for conv in convs):
        return
    for conv, following in zip(convs, convs[1:]):
        extra = -conv.out_channels % MULTIPLE
        set_weights(conv, F.pad(conv.weight, (0, 0, 0, 0, 0, 0, 0, extra)), F.pad(conv.bias, (0, extra)))
        set_weights(following, F.pad(following.weight, (0, 0, 0, 0, 0, extra)), following.bias)


def widen_local_part(mixer: Mixer) -> None:
    """Merge the identity channels of a mixer into its local part, in place.

    The local convolution passes them through with an identity kernel. The local part's ReLU does not change
    the result, because a ReLU follows all parts anyway. In all archs of the paper the merged channels are a
    multiple of 4; those of the local part alone may not be.
    """
    global_part, local_part, identity = mixer.splits
    conv, op = mixer.local_op.dwconv, mixer.local_op
    side = conv.kernel_size[0]
    as_is = conv.weight.new_zeros(identity, 1, side, side)
    as_is[:, :, side // 2, side // 2] = 1
    weight, bias = torch.cat([conv.weight, as_is]), F.pad(conv.bias, (0, identity))
    set_weights(conv, weight, bias, groups=local_part + identity)
    op.scale = nn.Parameter(F.pad(op.scale, (0, 0, 0, 0, 0, identity), value=1.0))
    op.shift = nn.Parameter(F.pad(op.shift, (0, 0, 0, 0, 0, identity)))
    mixer.splits = (global_part, local_part + identity, 0)


def set_weights(conv: nn.Conv2d, weight: Tensor, bias: Tensor, groups: int = 1) -> None:
    """Replace the weights of a convolution and update its numbers of channels, in place.

    Args:
        conv (nn.Conv2d): The convolution.
        weight (Tensor): (outputs, inputs / groups, height, width).
        bias (Tensor): (outputs,).
        groups (int): Number of groups. Defaults to 1.
    """
    conv.weight, conv.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    conv.out_channels, conv.in_channels, conv.groups = len(weight), weight.shape[1] * groups, groups


def halves_of(conv: nn.Conv2d) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Copy a convolution twice, with the first and the second half of its output channels."""
    first, second = copy.deepcopy(conv), copy.deepcopy(conv)
    for half, *weights in zip((first, second), conv.weight.chunk(2), conv.bias.chunk(2)):
        set_weights(half, *weights)
    return first, second


class ExportedSS2D(nn.Module):
    """SS2D of a deployed network; parameters are precomputed, and no result is split afterwards.

    Args:
        source (SS2D): The layer, with batch norms folded.
    """

    def __init__(self, source):
        super().__init__()
        self.u_proj, self.z_proj = halves_of(source.in_proj)
        self.dwconv = fuse(source.dwconv)  # without the SiLU: forward applies it to both halves
        norm = source.out_norm
        self.out_norm, self.out_proj = nn.LayerNorm(norm.normalized_shape, norm.eps), source.out_proj
        self.out_norm.weight, self.out_norm.bias = norm.weight, norm.bias
        self.x_proj_weight = nn.Parameter(source.x_proj_weight.transpose(1, 2)[:, None].clone())
        self.dt_proj_weight = nn.Parameter(join_bias(source.dt_proj_weight, source.dt_proj_bias))
        self.A = nn.Parameter(-source.A_log.exp().view(source.dt_proj_bias.shape))
        self.D = nn.Parameter(source.D.view(source.dt_proj_bias.shape).sum(0))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        u, z = self.dwconv(self.u_proj(x)), self.z_proj(x)
        u, gate = (F.silu(part.permute(0, 2, 3, 1).flatten(1, 2)) for part in (u, z))
        y = self.out_norm(self.scan(u)) * gate
        return self.out_proj(y.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2))

    def scan(self, u: Tensor) -> Tensor:
        """Scan in both directions, (N, L, E) -> (N, L, E)."""
        both = both_directions(u)
        x_dbl = both @ self.x_proj_weight
        return merge_directions(scan_as_walked(both, x_dbl, self.dt_proj_weight, self.A), u, self.D)
