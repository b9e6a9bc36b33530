"""Feature maps of a model for a blank image, on the meta device so that only shapes are computed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .failures import FAILURES, shorten

SIDES = (513, 528, 544, 576, 640)  # odd multiples of 1, 16, 32, 64 and 128


class MapsError(RuntimeError):
    """A model cannot process an image; the message is that of the original error."""


class Part(NamedTuple):
    """A model, or a part of one, that has a MobileMamba as a child."""

    path: str  # in the whole model; '' for the model itself
    model: nn.Module
    backbone: nn.Module
    name: str  # name of the backbone within ``model``

    def key(self, name: str) -> str:
        """Return the config key of a module of this part (str)."""
        return '.'.join(['model', *filter(None, [self.path, name])])


class BlankBackbone(nn.Module):
    """Returns blank feature maps of the shapes of a MobileMamba.

    Args:
        backbone (MobileMamba): The backbone whose shapes are returned.
        device (str): Device of the maps.
    """

    def __init__(self, backbone: nn.Module, device: str) -> None:
        super().__init__()
        self.out_channels, self.strides, self.device = backbone.out_channels, backbone.strides, device

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, in_channels, H, W) -> a map (N, C, ceil(H / stride), ceil(W / stride)) of each stage."""
        return tuple(
            torch.zeros(len(x), channels, *(-(-side // stride) for side in x.shape[2:]), device=self.device)
            for channels, stride in zip(self.out_channels, self.strides)
        )


def parts_of(model: nn.Module, kind: type[nn.Module]) -> list[Part]:
    """Return the parts of a model that have a backbone of type ``kind`` as a child, one per backbone."""
    return [
        Part(path, module, child, name)
        for path, module in model.named_modules()
        for name, child in module.named_children()
        if isinstance(child, kind)
    ]


def maps_of(part: Part, height: int, width: int) -> list[Tensor]:
    """Return the feature maps of a model's neck, or of its backbone if it has no neck, for a blank image.

    Args:
        part (Part): The model, or the part that has the backbone.
        height (int): Height of the image in px.
        width (int): Width of the image in px.

    Returns:
        list[Tensor]: Maps (1, C, H, W) or (1, C), on the meta device if possible.

    Raises:
        MapsError: If the model cannot process the image.
    """
    # Some operations do not support the meta device, for example deformable convolutions.
    for device in ('meta', 'cpu'):
        try:
            with torch.no_grad():
                return list(flatten(_extract(part, height, width, device)))
        except FAILURES as error:
            failure = error
    raise MapsError(shorten(failure)) from failure


def _extract(part, height, width, device):
    """Run ``extract_feat`` with a blank backbone and a copy of the neck."""
    model = part.model
    twin = copy.copy(model)
    twin._modules = dict(model._modules)
    twin._modules[part.name] = BlankBackbone(part.backbone, device)
    if isinstance(model._modules.get('neck'), nn.Module):
        twin._modules['neck'] = blank_copy(model.neck, device)
    image = torch.zeros(1, part.backbone.in_channels, height, width, device=device)
    if hasattr(model, 'extract_feat'):
        try:
            return twin.extract_feat(image)
        except TypeError:  # in some projects, the argument is a dict
            pass
    maps = twin._modules[part.name](image)
    return twin.neck(maps) if isinstance(twin._modules.get('neck'), nn.Module) else maps


def blank_copy(module: nn.Module, device: str) -> nn.Module:
    """Copy a module to a device, in evaluation mode; on ``'meta'``, parameters and buffers have no values."""
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        moved = tensor.detach().to(device)
        memo[id(tensor)] = (
            nn.Parameter(moved, requires_grad=False) if isinstance(tensor, nn.Parameter) else moved
        )
    return copy.deepcopy(module, memo).eval()


def flatten(value: Any) -> Iterator[Tensor]:
    """Yield all tensors in nested sequences and dicts, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from flatten(list(value.values()))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from flatten(item)


def needed_divisor(part: Part) -> int:
    """Return the number that image sides must be multiples of for a model (int).

    Raises:
        MapsError: If the model does not work with any of ``SIDES``.
    """
    *sides, last = SIDES
    for side in sides:
        try:
            maps_of(part, side, side)
        except MapsError:
            continue
        return side & -side
    maps_of(part, last, last)
    return last & -last
