"""What the test pipeline of a config does to pictures: how it reads them, and the sizes that it makes.

Sizes are (height, width), but pipelines have the width first. ``tools/deployment/infer.py`` and
``tools/deployment/web/prepare.js``, which run without this package, have the same arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config

from .datasets import datasets_of
from .errors import DeploymentError

SIDES = dict(Resize='scale', ResizeEdge='scale', CenterCrop='crop_size')  # of the steps that have such
KNOWN = (*SIDES, 'Pad')
ALIKE = ('Resize', 'Crop', 'Pad')  # what the names of other such steps have in them
LOADERS = ('LoadImageFromFile', 'PillowLoadImageFromFile')
# Steps after which a picture is what it was before.
HARMLESS = (
    'FilterAnnotations',
    'ImageToTensor',
    'LoadAnnotations',
    'LoadEmptyAnnotations',
    'LoadPanopticAnnotations',
    'LoadProposals',
    'PackDetInputs',
    'PackInputs',
    'PackMultiTaskInputs',
    'PackSegInputs',
)
# Arguments of the loaders that change no pixel.
WHERE_FROM = ('backend_args', 'file_client_args', 'ignore_empty')
OWN_COLOR_TYPE = 'color_ignore_orientation'  # of PillowLoadImageFromFile, unless it is given

Size = tuple[int, int]


def type_name(step: Mapping[str, Any]) -> str:
    """Name of what a config builds, without its scope; the type may be a class, as in Python's style."""
    kind = step['type']
    return kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__


def read_test_pipeline(config: Config) -> list[Mapping[str, Any]]:
    """The test pipeline of a config, with that of wrappers after it.

    Raises:
        DeploymentError: If there are several test sets whose pictures are read or resized differently.
    """
    pipelines = [steps for steps in (steps for _, steps in datasets_of(config)) if steps]
    kinds = [(loader_of(steps), resize_steps(steps)) for steps in pipelines]
    if any(kind != kinds[0] for kind in kinds):
        raise DeploymentError(
            'The test sets of the config have pipelines that read or resize pictures differently: give one '
            'of them in test_dataloader.dataset.'
        )
    return pipelines[0] if pipelines else []


def loader_of(pipeline: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The step of a pipeline that reads pictures, as JSON holds it; None if none does.

    mmcv's ``LoadImageFromFile`` stands for a pipeline that is empty. Of an unknown one there is the type.
    """
    if not pipeline:
        return dict(type='LoadImageFromFile')
    for step in pipeline:
        kind = type_name(step)
        if kind in LOADERS:
            given = {key: value for key, value in step.items() if key not in WHERE_FROM}
            own = dict(color_type=OWN_COLOR_TYPE) if kind == 'PillowLoadImageFromFile' else {}
            return {**own, **given, 'type': kind}
        if 'Load' in kind and kind not in HARMLESS:
            return dict(type=kind)
    return None


def resize_steps(pipeline: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The steps of a pipeline that change a picture once it is read, as JSON holds them.

    Steps that are neither in ``KNOWN`` nor in ``HARMLESS`` are there with their type alone, so that programs
    which prepare pictures can refuse them by name.

    Raises:
        DeploymentError: If there is one that changes the size and that :func:`resize` does not know.
    """
    steps = []
    for step in pipeline:
        kind = type_name(step)
        if kind not in KNOWN and any(word in kind for word in ALIKE):
            raise DeploymentError(f"The config's test pipeline has {kind}; known are {', '.join(KNOWN)}.")
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in step.items()}
        values['type'] = kind
        if kind == 'Pad':
            check_pad(values)
            steps.append(values)
        elif kind in SIDES:
            steps.append(values)
            if values.get(SIDES[kind]) is None or values.get('auto_pad'):
                raise DeploymentError(
                    f"The step {steps[-1]} of the config's test pipeline is not supported; it must be Resize "
                    f'or ResizeEdge with scale, or CenterCrop without auto_pad.'
                )
        elif kind == 'RandomFlip' and step.get('prob') == 0:
            continue
        elif kind not in HARMLESS and kind not in LOADERS and 'Load' not in kind:
            steps.append(dict(type=kind))
    return steps


def check_pad(step: Mapping[str, Any]) -> None:
    """Make sure that a step Pad makes a size, of a constant value.

    Raises:
        DeploymentError: If it does not.
    """
    if step.get('padding_mode', 'constant') != 'constant' or not (
        step.get('size') or step.get('size_divisor') or step.get('pad_to_square')
    ):
        raise DeploymentError(
            f"The step {dict(step)} of the config's test pipeline is not supported; Pad must have size, "
            f"size_divisor or pad_to_square, and the padding_mode 'constant'."
        )


def unknown_steps(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Types of the steps, of :func:`resize_steps`, that are not known, and so change pictures unseen."""
    return [step['type'] for step in steps if step['type'] not in KNOWN]


def padded(height: float, width: float, step: Mapping[str, Any]) -> tuple[float, float]:
    """Height and width after the step Pad, which may be infinite."""
    if step.get('pad_to_square'):
        height = width = max(height, width)
    if step.get('size_divisor'):
        divisor = step['size_divisor']
        height, width = (
            side if math.isinf(side) else -(-side // divisor) * divisor for side in (height, width)
        )
    elif step.get('size'):
        height, width = max(height, step['size'][1]), max(width, step['size'][0])
    return height, width


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
        if step['type'] == 'Pad':
            height, width = map(int, padded(height, width, step))
        if step['type'] not in SIDES:
            continue
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
        if step['type'] == 'Pad':
            bounds = [padded(*bound, step) for bound in bounds]
        if step['type'] not in SIDES:
            continue
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
