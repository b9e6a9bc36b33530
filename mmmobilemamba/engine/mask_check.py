"""Checks a sample of segmentation masks for invalid labels."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

MASKS = 8  # number of masks to check, at even intervals in a dataset
IGNORED = 255  # default ignore_index of mmseg's metrics


def check_masks(model: nn.Module, dataset: Any, training: bool = True) -> str | None:
    """Check some masks of a dataset after its pipeline.

    Args:
        model (nn.Module): The model; only mmseg's segmentors are checked.
        dataset (Any): The dataset to train or test on; only datasets with masks are checked.
        training (bool): Whether invalid labels are an error, because losses fail on them; metrics count such
            pixels as wrong. Defaults to True.

    Returns:
        str, optional: A warning about invalid labels (if not ``training``), about masks and images of
        different sizes (if not ``training``), or about masks with a single class and ignored pixels.

    Raises:
        ValueError: If a mask has several channels or, in training, invalid labels.
    """
    head = getattr(model, 'decode_head', None)
    head = head[-1] if isinstance(head, nn.ModuleList) else head
    classes = getattr(head, 'num_classes', None)
    if not isinstance(classes, int):
        return None
    ignore_index = getattr(head, 'ignore_index', IGNORED)
    ignored = {ignore_index} if training else {ignore_index, IGNORED}
    seen: set[int] = set()
    for path, mask, shape in read_masks(dataset):
        if mask.ndim != 3 or mask.shape[0] != 1:
            raise ValueError(
                f'The mask {path} has the shape {tuple(mask.shape)}: masks have one channel, of labels. '
                f'Convert colours (RGB) or transparency to 8-bit gray, or to palette PNG, where the indices '
                f'are the labels.'
            )
        if not training and shape is not None and tuple(mask.shape[1:]) != tuple(shape[:2]):
            return (
                f'The mask {path} has {mask.shape[1]} x {mask.shape[2]} px (height x width) and its picture '
                f'{shape[0]} x {shape[1]}: metrics of mmseg compare pixel with pixel. LoadAnnotations comes '
                f'after the steps that resize.'
            )
        labels = set(mask.unique().tolist())
        seen |= labels
        strange = sorted({label for label in labels if not 0 <= label < classes} - ignored)
        if strange:
            few = ', '.join(map(str, strange[:5])) + (', ...' if len(strange) > 5 else '')
            message = (
                f'The mask {path} has the labels {few}, and the decode_head has {classes} classes, 0 to '
                f'{classes - 1}; {ignore_index} is ignored.'
            )
            if not training:
                return f'{message} Metrics of mmseg count such pixels as wrong.'
            raise ValueError(
                f'{message} Set num_classes of the heads, or convert the mask. Where 0 is no class and 1 the '
                f'first one, set reduce_zero_label=True in the dataset and in LoadAnnotations.'
            )
    if seen & ignored and len(seen - ignored) < 2 <= classes:
        all_labels, left_out = (', '.join(map(str, sorted(some))) for some in (seen, seen & ignored))
        return (
            f'All checked masks have only the labels {all_labels}, and {left_out} is ignored, so there are '
            f'no classes to tell apart. If 255 is a class, convert it to 1.'
        )
    return None


def read_masks(dataset: Any) -> Iterator[tuple[str | None, torch.Tensor, tuple | None]]:
    """Yield path, mask, (1, H, W) if valid, and image shape of some samples of an mmseg dataset."""
    if not hasattr(dataset, '__len__') or not hasattr(dataset, '__getitem__') or not len(dataset):
        return
    for index in np.unique(np.linspace(0, len(dataset) - 1, MASKS).round().astype(int)):
        with same_random_numbers():
            item = dataset[int(index)]
        sample = item.get('data_samples') if isinstance(item, dict) else None
        sample = sample[0] if isinstance(sample, list) and sample else sample  # test-time augmentation
        mask = getattr(sample, 'gt_sem_seg', None)
        if mask is None:
            return
        yield getattr(sample, 'seg_map_path', None), mask.data, getattr(sample, 'ori_shape', None)


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Restore the random states of Python, NumPy and torch (CPU) on exit."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
