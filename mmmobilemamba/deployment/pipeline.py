"""The sizes that the test pipeline of a config makes of pictures.

Sizes are (height, width), but pipelines have the width first. ``tools/deployment/infer_onnx.py`` and
``tools/deployment/web/prepare.js``, which run without this package, have the same arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config

from .errors import DeploymentError

SIDES = dict(Resize='scale', ResizeEdge='scale', CenterCrop='crop_size')  # of the steps that are known
ALIKE = ('Resize', 'Crop', 'Pad')  # what the names of other such steps have in them

Size = tuple[int, int]


def read_test_pipeline(config: Config) -> list[dict[str, Any]]:
    """The test pipeline of a config, of the first dataset that has one if datasets are nested."""
    waiting = [config.get('test_dataloader', {}).get('dataset', {})]
    while waiting:
        dataset = waiting.pop(0)
        if dataset.get('pipeline'):
            return dataset['pipeline']
        waiting += [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets', [])
    return []


def resize_steps(pipeline: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The steps of a pipeline that change the size, as JSON holds them.

    Raises:
        DeploymentError: If there is one that :func:`resize` does not know.
    """
    steps = []
    for step in pipeline:
        kind = step['type'].rpartition('.')[2]  # without the scope
        if kind not in SIDES and any(word in kind for word in ALIKE):
            raise DeploymentError(f"The config's test pipeline has {kind}; known are {', '.join(SIDES)}.")
        if kind in SIDES:
            values = {key: list(value) if isinstance(value, tuple) else value for key, value in step.items()}
            steps.append({**values, 'type': kind})
            if values.get(SIDES[kind]) is None or values.get('auto_pad'):
                raise DeploymentError(
                    f"The step {steps[-1]} of the config's test pipeline is not supported; it must be Resize "
                    f'or ResizeEdge with scale, or CenterCrop without auto_pad.'
                )
    return steps


def sides_of(step: Mapping[str, Any]) -> Size:
    """Height and width that a step names."""
    sides = step[SIDES[step['type']]]
    return (sides, sides) if isinstance(sides, int) else (sides[1], sides[0])


def pad_divisor_of(preprocessor: Mapping[str, Any]) -> int:
    """What the sides of a network's input are multiples of: ``pad_size_divisor``, in mmseg ``test_cfg``'s."""
    test_cfg = preprocessor.get('test_cfg') or {}
    return preprocessor.get('pad_size_divisor') or test_cfg.get('size_divisor') or 1


def pad(size: Size, divisor: int) -> Size:
    """The size after padding to multiples of ``divisor``."""
    height, width = (-(-side // divisor) * divisor for side in size)
    return height, width


def resize(size: Size, steps: Sequence[Mapping[str, Any]]) -> Size:
    """The size that :func:`resize_steps` make of a picture of one size."""
    height, width = size
    for step in steps:
        sides = sides_of(step)
        if step['type'] == 'CenterCrop':
            height, width = min(sides[0], height), min(sides[1], width)
        elif step['type'] == 'ResizeEdge':
            side, edge = step['scale'], step.get('edge', 'short')
            if edge == 'width' or (edge == 'short' and width < height) or (edge == 'long' and width > height):
                height, width = max(int(side * height / width), 1), side
            else:
                height, width = side, max(int(side * width / height), 1)
        elif step.get('keep_ratio'):
            factor = min(max(sides) / max(height, width), min(sides) / min(height, width))
            height, width = (max(int(side * factor + 0.5), 1) for side in (height, width))
        else:
            height, width = sides
    return height, width


def largest_sizes(steps: Sequence[Mapping[str, Any]]) -> list[Size]:
    """The smallest sizes of which one holds every picture after :func:`resize_steps`, the config's first.

    One, if an input of that size takes all pictures; two, if it is one size for landscapes and another for
    portraits; none, if pictures have no largest size.
    """
    bounds = [(math.inf, math.inf)]
    for step in steps:
        height, width = sides_of(step)
        if step['type'] == 'CenterCrop':
            bounds = [(min(height, tall), min(width, wide)) for tall, wide in bounds]
        elif step['type'] == 'ResizeEdge':
            by_edge: dict[str, list[tuple[float, float]]] = dict(
                short=[(height, math.inf), (math.inf, width)],
                long=[(height, width)],
                height=[(height, math.inf)],
                width=[(math.inf, width)],
            )
            bounds = by_edge[step.get('edge', 'short')]
        elif step.get('keep_ratio'):
            bounds = [(height, width), (width, height)]
        else:
            bounds = [(height, width)]
    if any(math.inf in bound for bound in bounds):
        return []
    return list(dict.fromkeys((int(height), int(width)) for height, width in bounds))
