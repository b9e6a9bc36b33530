"""Reads the test pipeline of a config: how it loads images, and the sizes it resizes them to.

Sizes are (height, width) in px, whereas pipelines put the width first. ``tools/deployment/infer.py`` and
``tools/deployment/web/prepare.js`` implement the same arithmetic, because they run without this package.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config

from .datasets import datasets_of
from .errors import DeploymentError

SIDES = dict(Resize='scale', ResizeEdge='scale', CenterCrop='crop_size')  # each step's size argument
KNOWN = (*SIDES, 'Pad')
ALIKE = ('Resize', 'Crop', 'Pad')  # parts of the names of other steps that change sizes
LOADERS = ('LoadImageFromFile', 'PillowLoadImageFromFile')
# Steps that do not change the image.
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
# Loader arguments that do not affect pixels.
WHERE_FROM = ('backend_args', 'file_client_args', 'ignore_empty')
OWN_COLOR_TYPE = 'color_ignore_orientation'  # default of PillowLoadImageFromFile

Size = tuple[int, int]


def type_name(step: Mapping[str, Any]) -> str:
    """Return the type of a config without its scope (str); in Python-style configs the type is a class."""
    kind = step['type']
    return kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__


def read_test_pipeline(config: Config) -> list[Mapping[str, Any]]:
    """Return the steps of a config's test pipeline, including those of dataset wrappers (list[dict]).

    Raises:
        DeploymentError: If several test sets load or resize images differently.
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
    """Return the loading step of a pipeline (dict, JSON-serialisable), or None if there is none.

    An empty pipeline counts as mmcv's ``LoadImageFromFile``. For unknown loaders, only the type is returned.
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
    """Return the steps of a pipeline that modify the image after loading (list[dict], JSON-serialisable).

    Steps that are neither in ``KNOWN`` nor in ``HARMLESS`` are reduced to their type, so that programs that
    prepare images can refuse them by name.

    Raises:
        DeploymentError: If a step changes the size and is not supported by :func:`resize`.
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
    """Check that a Pad step defines a size and pads with a constant.

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
    """Return the types of the :func:`resize_steps` that are not supported (list[str])."""
    return [step['type'] for step in steps if step['type'] not in KNOWN]


def padded(height: float, width: float, step: Mapping[str, Any]) -> tuple[float, float]:
    """Return height and width after a Pad step; both can be infinite, see :func:`largest_sizes`."""
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
    """Return the height and width configured in a step."""
    sides = step[SIDES[step['type']]]
    return (sides, sides) if isinstance(sides, int) else (sides[1], sides[0])


def pad_divisor_of(preprocessor: Mapping[str, Any]) -> int:
    """Return the divisor for padding: ``pad_size_divisor``, or mmseg's ``test_cfg.size_divisor`` (int)."""
    test_cfg = preprocessor.get('test_cfg') or {}
    return preprocessor.get('pad_size_divisor') or test_cfg.get('size_divisor') or 1


def pad(size: Size, divisor: int) -> Size:
    """Round a size up to multiples of ``divisor``."""
    height, width = (-(-side // divisor) * divisor for side in size)
    return height, width


def resize(size: Size, steps: Sequence[Mapping[str, Any]]) -> Size:
    """Return the size of an image after the :func:`resize_steps`.

    Args:
        size (tuple[int, int]): Height and width of the image in px.
        steps (Sequence[dict]): The steps.
    """
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
    """Return the smallest input sizes such that every image fits one of them after the :func:`resize_steps`.

    Returns:
        list[tuple[int, int]]: One size if it fits all images; two if landscape and portrait images differ, in
        the order of the config; none if the size of images is not bounded.
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
