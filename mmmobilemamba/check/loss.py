"""Computes the loss of one batch, with initialised weights but without those of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import DataLoader

from ..engine.training_check_hook import batch_sizes, mixes_datasets
from ..models.checkpoint import split_pretrained
from ..utils.quiet import quietly
from .classes import listed
from .failures import FAILURES, describe
from .finding import Finding
from .maps import flatten

IMAGES = 2  # whose loss is computed
PICTURES = 20  # images in which a detector's pipeline has to keep an object


def initialise(model: nn.Module) -> list[Finding]:
    """Initialise the parameters of a model as the Runner does, except from checkpoints.

    Before that, parameters of some detectors of mmdet (3.3.0) have arbitrary values, or are shared.

    Args:
        model (nn.Module): The model; modified.

    Returns:
        list[Finding]: The error if it fails, otherwise none.
    """
    if not isinstance(model, BaseModel):
        return []
    for module in model.modules():
        if getattr(module, 'init_cfg', None):
            module.init_cfg = split_pretrained(module.init_cfg)[0] or None
        if isinstance(getattr(module, 'pretrained', None), str):  # of DetectoRS
            module.pretrained = None
    try:
        with quietly():
            model.init_weights()
    except FAILURES as error:
        return [Finding('error', 'model', f'The weights cannot be initialised: {describe(error)}')]
    return []


def as_in_training() -> None:
    """Set the progress in the message hub if it is missing; YOLOX, for example, resizes by iteration."""
    hub = MessageHub.get_current_instance()
    for key, value in dict(epoch=0, iter=0, max_epochs=1, max_iters=1).items():
        if hub.get_info(key) is None:
            hub.update_info(key, value)


def has_objects(sample: Any) -> bool:
    """Whether an item of a dataset has objects, or is not one of detection (bool)."""
    target = getattr(sample.get('data_samples'), 'gt_instances', None)
    return target is None or len(target) > 0


def lost_objects(dataset: Any, samples: Sequence[Any]) -> Finding | None:
    """Check that the pipeline keeps objects of a detector's first images.

    Args:
        dataset (Dataset): The training dataset.
        samples (Sequence[dict]): Its first items, as the pipeline makes them.
    """
    if not hasattr(dataset, 'get_data_info'):
        return None
    if any(map(has_objects, samples)):
        return None
    indices = range(min(len(dataset), PICTURES))  # a random crop may lose the objects of a few
    infos = [dataset.get_data_info(index) for index in indices]
    annotated = sum(not each.get('ignore_flag') for info in infos for each in info.get('instances') or [])
    if not annotated or any(has_objects(dataset[index]) for index in indices):
        return None
    text = (
        f'The first {len(indices)} images have {annotated} objects, but the pipeline keeps none of them, so '
        f'that nothing would be learnt.'
    )
    advice = (
        'Look at its output with browse_dataset. LoadAnnotations with poly2mask=False, for example, reads '
        'polygons alone and drops objects whose masks are run lengths (RLE): set poly2mask=True.'
    )
    return Finding('error', 'data', text, advice)


def check_loss(model: nn.Module, loader: DataLoader) -> Finding | None:
    """Check that the loss of the first two images (one if the batch size is 1) is computable and finite.

    Where all batches have images of several datasets, it is that of a batch.
    """
    if not isinstance(model, BaseModel):
        return None
    as_in_training()
    number = min(IMAGES, len(loader.dataset), *(batch_sizes(loader) or [1]))
    try:
        indices = next(iter(loader.batch_sampler)) if mixes_datasets(loader) else range(number)
        number = len(indices)
        samples = [loader.dataset[index] for index in indices]
        lost = lost_objects(loader.dataset, samples)
        if lost:
            return lost
        batch = loader.collate_fn(samples)
        with torch.no_grad():
            batch = model.train().data_preprocessor(batch, True)
            losses = model(**batch, mode='loss') if isinstance(batch, dict) else model(*batch, mode='loss')
    except FAILURES as error:
        text = f'The loss of {number} images cannot be computed: {describe(error)}'
        return Finding('error', 'loss', text)
    if all(value.isfinite().all() for value in flatten(losses) if value.is_floating_point()):
        return Finding('ok', 'loss', f'The loss of {number} images can be computed.')
    names = [name for name, value in losses.items() if not all(x.isfinite().all() for x in flatten(value))]
    return Finding('error', 'loss', f'The loss of {number} images is not finite: {listed(names)}.')
