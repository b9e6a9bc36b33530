"""Checks for image sizes that a neck does not support, such as one that adds upsampled maps to finer ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmengine.config import Config
from torch import nn

from .finding import Finding, nest
from .maps import MapsError, Part, needed_divisor

# Parts of the names of steps that do not change the size of an image.
SAME_SIZE = ('Load', 'Pack', 'Flip', 'PhotoMetric', 'HSV', 'Filter', 'Annotations', 'MixUp', 'ImageToTensor')


class Sizes(NamedTuple):
    """Sizes of the images after a pipeline, in px."""

    fixed: tuple[int, int] | None = None  # (height, width)
    divisor: int = 1  # both sides are multiples of it
    known: bool = True  # False after a step with an unknown effect


def check_sides(part: Part, config: Config) -> list[Finding]:
    """Compare the image sizes of a config's pipelines with those that the model supports.

    Args:
        part (Part): The model, or the part that has the backbone.
        config (Config): The whole config.
    """
    try:
        needed = needed_divisor(part)
    except MapsError as error:
        text = f'The neck accepts none of the image sides that were tried: {error}'
        return [Finding('warning', 'sides', text)]
    if needed == 1:
        return [Finding('ok', 'sides', 'Images of any size are accepted.')]
    model = config.get('model') or {}
    preprocessor = model.get('data_preprocessor') or config.get('data_preprocessor') or {}
    key = part.key('data_preprocessor') if model.get('data_preprocessor') else 'data_preprocessor'
    what = f'The neck only accepts image sides in multiples of {needed}'
    pad: dict[str, Any] = dict(pad_size_divisor=needed)
    augments = [dict(each) for each in preprocessor.get('batch_augments') or []]
    coarse = [each for each in augments if (each.get('size_divisor') or needed) % needed]
    if coarse:
        pad['batch_augments'] = [
            dict(each, size_divisor=needed) if each in coarse else each for each in augments
        ]
    mend = nest(key, pad)
    if coarse:
        text = f'{what}, but batch_augments produces multiples of {coarse[0]["size_divisor"]}.'
        return [Finding('error', 'sides', text, 'Pad to that:', mend)]
    findings = []
    for name in ('train', 'val', 'test'):
        divisor, fixed = preprocessed(preprocessor, training=name == 'train')
        for sizes in (pipeline_sizes(steps) for steps in pipelines_of(config.get(f'{name}_dataloader'))):
            if fixed or sizes.fixed:
                height, width = (-(-side // divisor) * divisor for side in fixed or sizes.fixed)
                if height % needed or width % needed:
                    text = f'{what}, but {name}_dataloader produces {height} x {width} (height x width).'
                    findings.append(Finding('error', 'sides', text, 'Pad to that:', mend))
            elif divisor % needed and sizes.divisor % needed:
                text = f'{what}, but {name}_dataloader produces images of many sizes, padded to multiples of '
                text += f'{max(divisor, sizes.divisor)}.'
                level = 'error' if sizes.known else 'warning'
                findings.append(Finding(level, 'sides', text, 'Pad to that:', mend))
    errors = [finding for finding in findings if finding.level == 'error']
    return (errors or findings)[:1] or [Finding('ok', 'sides', f'{what}, and gets them.')]


def check_padding(model: nn.Module, config: Config) -> list[Finding]:
    """Check ``size`` and ``size_divisor`` of mmseg's data preprocessor, and compare them with the crop.

    mmseg (1.2.2) demands one of them, in training and in a ``test_cfg``. It pads to ``size`` at least, so a
    larger crop stays as large as it is, and a crop of a smaller image cannot be stacked with it.

    Args:
        model (nn.Module): The model.
        config (Config): The whole config.
    """
    preprocessor: Any = getattr(model, 'data_preprocessor', None)
    if not any(kind.__name__ == 'SegDataPreProcessor' for kind in type(preprocessor).__mro__):
        return []
    own = (config.get('model') or {}).get('data_preprocessor')
    key = 'model.data_preprocessor' if own else 'data_preprocessor'
    crop = next(filter(None, map(crop_of, pipelines_of(config.get('train_dataloader')))), None)
    found = _both_or_neither(key, 'the training', preprocessor.size, preprocessor.size_divisor, crop)
    given = preprocessor.test_cfg
    if given:
        sizes = given.get('size'), given.get('size_divisor')
        found += _both_or_neither(f'{key}.test_cfg', 'a validation', *sizes, None)
    size = preprocessor.size
    if not found and crop and size and any(side > room for side, room in zip(crop, size)):
        text = (
            f'RandomCrop produces up to {crop[0]} x {crop[1]} (height x width), but {key}.size is '
            f'{size[0]} x {size[1]}: larger images stay larger, and those of several sizes cannot be stacked.'
        )
        found.append(
            Finding('warning', 'sides', text, 'Set both to the same size:', nest(f'{key}.size', crop))
        )
    return found


def _both_or_neither(key, run, size, divisor, crop) -> list[Finding]:
    """Return the error if both or none of ``size`` and ``size_divisor`` are given."""
    if (size is None) != (divisor is None):
        return []
    which = 'neither size nor size_divisor' if size is None else 'both size and size_divisor'
    text = f'{key} has {which}, so mmseg stops at the first batch of {run}: it needs one of them.'
    mend = dict(size_divisor=None) if size is not None else dict(size=crop) if crop else dict(size_divisor=32)
    return [Finding('error', 'sides', text, mend=nest(key, mend))]


def crop_of(steps: Sequence[Mapping[str, Any]]) -> tuple[int, int] | None:
    """Return (height, width) of the crop that a pipeline ends with, in px, None if there is none."""
    crop = None
    for step in steps:
        kind = step.get('type')
        name = getattr(kind, '__name__', str(kind)).rpartition('.')[2]
        if name == 'RandomCrop':
            crop = step.get('crop_size')
        elif not any(word in name for word in SAME_SIZE):
            crop = None
    return (crop, crop) if isinstance(crop, int) else tuple(crop) if crop else None


def preprocessed(preprocessor: Mapping[str, Any], training: bool) -> tuple[int, tuple[int, int] | None]:
    """Return the padding of a data preprocessor: the divisor (int), and a fixed (height, width) or None."""
    settings = (
        preprocessor if training else {**preprocessor, 'size': None, **(preprocessor.get('test_cfg') or {})}
    )
    divisor = settings.get('pad_size_divisor') or settings.get('size_divisor') or 1
    return divisor, tuple(settings['size']) if settings.get('size') else None


def training_size(config: Config) -> tuple[int, int] | None:
    """Return (height, width) of the images of a training in px, or None if it is unknown."""
    model = config.get('model') or {}
    preprocessor = model.get('data_preprocessor') or config.get('data_preprocessor') or {}
    _, fixed = preprocessed(preprocessor, training=True)
    sizes = [pipeline_sizes(steps).fixed for steps in pipelines_of(config.get('train_dataloader'))]
    return fixed or next(filter(None, sizes), None)


def pipelines_of(loader: Any) -> list[list[Mapping[str, Any]]]:
    """Return the pipelines of a dataloader's datasets, each followed by the pipelines of its wrappers."""
    loaders = loader if isinstance(loader, Sequence) else [loader]
    return [
        steps
        for each in loaders
        if isinstance(each, Mapping) and isinstance(each.get('dataset'), Mapping)
        for steps in _pipelines(each['dataset'], [])
        if steps
    ]


def _pipelines(dataset, after):
    steps = [*(dataset.get('pipeline') or []), *after]
    inside = dataset.get('datasets') or [dataset[key] for key in ('dataset',) if dataset.get(key)]
    inside = [each for each in inside if isinstance(each, Mapping)]
    return [found for each in inside for found in _pipelines(each, steps)] if inside else [steps]


def pipeline_sizes(steps: Sequence[Mapping[str, Any]]) -> Sizes:
    """Return the image sizes after the steps of a pipeline, for input images of any size."""
    sizes, bound = Sizes(), None  # upper bound (height, width) of the image size
    square = False  # whether the longer side of every image equals that of the bound
    for step in steps:
        kind = step.get('type')
        name = getattr(kind, '__name__', str(kind)).rpartition('.')[2]
        if name == 'Resize' and step.get('scale'):
            width, height = (step['scale'],) * 2 if isinstance(step['scale'], int) else step['scale']
            kept = step.get('keep_ratio')
            bound = (max(height, width),) * 2 if kept else (height, width)
            sizes, square = Sizes(None if kept else bound), height == width
        elif name in ('RandomCrop', 'CenterCrop') and step.get('crop_type', 'absolute') == 'absolute':
            crop = step.get('crop_size')
            bound = (crop, crop) if isinstance(crop, int) else tuple(crop or ()) or None
            sizes, square = Sizes(known=False), False
        elif name == 'Pad' and step.get('pad_to_square'):
            sizes = Sizes(bound) if square else sizes
        elif name == 'Pad' and step.get('size_divisor'):
            divisor = step['size_divisor']
            padded = sizes.fixed and tuple(-(-side // divisor) * divisor for side in sizes.fixed)
            sizes = Sizes(padded, divisor, sizes.known)
        elif name == 'Pad' and step.get('size'):
            size = step['size'][1], step['size'][0]
            holds = bound is not None and all(side <= room for side, room in zip(bound, size))
            sizes = Sizes(size) if holds else Sizes(known=False)
        elif not any(word in name for word in SAME_SIZE):
            sizes, bound, square = Sizes(known=False), None, False
    return sizes
