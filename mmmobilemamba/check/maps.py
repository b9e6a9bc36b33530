"""The maps that a model makes of a blank image. On the meta device, so that only shapes are computed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# What other people's networks raise.
FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
SIDES = (513, 528, 544, 576, 640)  # odd multiples of 1, 16, 32, 64 and 128


class MapsError(RuntimeError):
    """A model makes no maps of an image; the message is what it raised."""


class Part(NamedTuple):
    """A model, or a part of one, that has a backbone of ours."""

    path: str  # in the whole model, '' for itself
    model: nn.Module
    backbone: nn.Module
    name: str  # of the backbone in it

    def key(self, name: str) -> str:
        """Where the config has the settings of a module of it."""
        return '.'.join(['model', *filter(None, [self.path, name])])


class BlankBackbone(nn.Module):
    """Makes the maps of a MobileMamba without values."""

    def __init__(self, backbone: nn.Module, device: str) -> None:
        super().__init__()
        self.out_channels, self.strides, self.device = backbone.out_channels, backbone.strides, device

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, in_channels, H, W) -> a tuple with (N, C, ceil(H / stride), ceil(W / stride)) a stage."""
        return tuple(
            torch.zeros(len(x), channels, *(-(-side // stride) for side in x.shape[2:]), device=self.device)
            for channels, stride in zip(self.out_channels, self.strides)
        )


def parts_of(model: nn.Module, kind: type[nn.Module]) -> list[Part]:
    """The parts of a model that have a backbone of a kind as a child, one for each backbone."""
    return [
        Part(path, module, child, name)
        for path, module in model.named_modules()
        for name, child in module.named_children()
        if isinstance(child, kind)
    ]


def maps_of(part: Part, height: int, width: int) -> list[Tensor]:
    """What the neck of a model, or else its backbone, makes of an image: tensors (1, C, H, W), (1, C), ...

    Raises:
        MapsError: If it cannot.
    """
    # A few operations have no form for the meta device, deformable convolutions for one.
    for device in ('meta', 'cpu'):
        try:
            with torch.no_grad():
                return list(flatten(_extract(part, height, width, device)))
        except FAILURES as error:
            failure = error
    raise MapsError(' '.join(str(failure).split())[:300]) from failure


def _extract(part, height, width, device):
    """Run ``extract_feat``, with a backbone that does not compute, and copies of what follows it."""
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
        except TypeError:  # those of some projects take a dict
            pass
    maps = twin._modules[part.name](image)
    return twin.neck(maps) if isinstance(twin._modules.get('neck'), nn.Module) else maps


def blank_copy(module: nn.Module, device: str) -> nn.Module:
    """A copy of a module in evaluation whose parameters and buffers have no values if ``device`` is meta."""
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        moved = tensor.detach().to(device)
        memo[id(tensor)] = (
            nn.Parameter(moved, requires_grad=False) if isinstance(tensor, nn.Parameter) else moved
        )
    return copy.deepcopy(module, memo).eval()


def flatten(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from flatten(list(value.values()))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from flatten(item)


def needed_divisor(part: Part) -> int:
    """What the sides of images have to be multiples of, for a model to take them.

    Raises:
        MapsError: If it takes none.
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
