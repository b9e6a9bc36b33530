"""Detects settings that make a training fail or learn nothing, before its first iteration."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel, BaseTTAModel, is_model_wrapper
from mmengine.optim.scheduler.param_scheduler import ConstantParamScheduler
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import BatchSampler, DataLoader, Sampler

from mmmobilemamba.models import MobileMamba
from mmmobilemamba.models.checkpoint import CheckpointError, backbone_part, describe, is_authors, unwrap

from .mask_check import check_masks, same_random_numbers

FILTERED = (
    'Either its files were not found, or all of them were filtered out: compare data_root, data_prefix and '
    'ann_file with the folders, metainfo.classes with the names in the annotations, and look at filter_cfg '
    'and indices.'
)


@HOOKS.register_module()
class TrainingCheckHook(Hook):
    """Check data, schedule and checkpoint before a run starts. All recipes of this package use it.

    The hook does not modify the run. Without it, mmengine (0.10.7) silently trains zero iterations if
    ``drop_last`` drops the only batch of a small dataset, and reports a checkpoint of another network as a
    long list of keys.

    Raises:
        ValueError: Before training, if there are no training or validation images, a batch of one image would
            leave a batch norm with one value per channel, or the data have more classes than a head. Before
            training and testing, if masks are not label maps.
        CheckpointError: If a loaded checkpoint has no weights for any MobileMamba of the model, or the
            checkpoint to resume belongs to another model.

    Example:
        >>> default_hooks = dict(training_check=dict(type='TrainingCheckHook'))
    """

    priority = 'VERY_HIGH'

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check that a checkpoint belongs to this model; mmengine calls this before loading the weights."""
        model = unwrap_model(runner.model)
        weights = checkpoint.get('state_dict', checkpoint)
        check_backbone(model, weights, runner._load_from)
        if not runner._resume:
            return
        check_resumed(model, weights)
        if 'ema_state_dict' in checkpoint and not any(isinstance(hook, EMAHook) for hook in runner.hooks):
            runner.logger.warning(
                'The resumed run had a moving average and this one has none: it continues from the averaged '
                'weights.'
            )

    def before_train(self, runner: Runner) -> None:
        """Check classes, masks and batches, and warn about schedulers that exceed the training."""
        check_iterations(runner.train_dataloader)
        model = unwrap_model(runner.model)
        check_classes(model, runner.train_dataloader.dataset)
        warn_of_masks(runner, runner.train_dataloader, training=True)
        if runner.val_loop is not None:
            check_validation(runner.val_dataloader)
            warn_of_masks(runner, runner.val_dataloader)
        # Parts of an FSDP model cannot run separately.
        if not is_model_wrapper(runner.model) or isinstance(runner.model, DistributedDataParallel):
            check_smallest_batch(unwrap_model(runner.model), runner.train_dataloader)
        late = late_schedulers(runner)
        if late:
            runner.logger.warning(' '.join(late) + ' Shorten param_scheduler, or train for longer.')

    def before_test(self, runner: Runner) -> None:
        """Check the test masks of a segmentor."""
        warn_of_masks(runner, runner.test_dataloader)


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the model inside wrappers such as DDP and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


# Checkpoints.


def check_backbone(model: nn.Module, weights: dict[str, Any], source: str | None) -> None:
    """Check that a state dict has entries for the backbones of a model; only for models with a MobileMamba.

    Args:
        model (nn.Module): The model.
        weights (dict[str, Any]): The state dict.
        source (str, optional): Path of the checkpoint, for the message.

    Raises:
        CheckpointError: If it has none.
    """
    backbones = [name for name, module in model.named_modules() if isinstance(module, MobileMamba)]
    if not backbones or '' in backbones:  # a bare backbone checks all keys itself
        return
    # With any prefix: mmdet's semi-supervised detectors, for example, rename keys while loading.
    ends = '|'.join({re.escape(name.rpartition('.')[2]) for name in backbones})
    if any(re.search(rf'(^|\.)({ends})\.', str(key)) for key in weights):
        return
    # mmpretrain's classifiers convert the authors' key names while loading.
    renames = any(kind.__name__ == 'ImageClassifier' for kind in type(model).__mro__)
    inner = unwrap(weights)
    if renames and is_authors(inner):
        return
    advice = (
        'Weights of a backbone alone, and the ImageNet weights of a detector or segmentor, go into '
        "model.backbone.init_cfg=dict(type='Pretrained', checkpoint=...) instead of load_from."
    )
    if not backbone_part(inner):
        advice = 'Set load_from=None; for the ImageNet weights, set the init_cfg of the backbone.'
    raise CheckpointError(
        f'{source} has nothing for the {backbones[0]} of this {type(model).__name__}: it looks like '
        f'{describe(inner)}. {advice}'
    )


def check_resumed(model: nn.Module, weights: dict[str, Any]) -> None:
    """Check that a checkpoint to resume has the same shapes as the model.

    Raises:
        CheckpointError: If shapes differ.
    """
    saved = {re.sub(r'^module\.', '', key): value for key, value in weights.items()}
    others = [
        f'{key} {tuple(saved[key].shape)} instead of {tuple(value.shape)}'
        for key, value in model.state_dict().items()
        if key in saved and saved[key].shape != value.shape
    ]
    if others:
        raise CheckpointError(
            f'The checkpoint to resume is of another model: {"; ".join(others[:3])}. To resume, leave the '
            f'model as it was; to fine-tune what fits, give the file to load_from, and no --resume.'
        )


# Data.


def check_not_empty(loader: DataLoader) -> None:
    """Check that a dataset is not empty.

    Raises:
        ValueError: If it is.
    """
    if hasattr(loader.dataset, '__len__') and len(loader.dataset) == 0:
        raise ValueError(f'The dataset {type(loader.dataset).__name__} is empty. {FILTERED}')


def check_iterations(loader: DataLoader) -> None:
    """Check that a training epoch has at least one iteration.

    Raises:
        ValueError: If it has none.
    """
    check_not_empty(loader)
    batches = loader.batch_sampler
    if is_endless(loader) or not hasattr(batches, '__len__') or len(batches) > 0:
        return
    images, sizes = len(batches.sampler), batch_sizes(loader)
    if len(sizes) > 1:
        raise ValueError(
            f'There is no iteration in an epoch: no dataset has as many images as its batch_size, of '
            f'{", ".join(map(str, sizes))}, and drop_last=True leaves them out. Set smaller numbers in '
            f'train_dataloader.batch_size, or train_dataloader.batch_sampler.drop_last=False.'
        )
    size = sizes[0]
    times = -(-size // max(images, 1))
    drop_last = 'drop_last' if type(batches) is BatchSampler else 'batch_sampler.drop_last'
    raise ValueError(
        f'There is no iteration in an epoch: a process has {images} images, fewer than the batch_size of '
        f'{size}, and drop_last=True leaves them out. Set train_dataloader.batch_size={images} or less (and '
        f'scale the learning rate accordingly), or train_dataloader.{drop_last}=False, or repeat the images: '
        f"train_dataloader.dataset=dict(type='RepeatDataset', times={times}, dataset=...)."
    )


def check_validation(loader: DataLoader) -> None:
    """Check that validation has at least one iteration.

    Raises:
        ValueError: If it has none.
    """
    check_not_empty(loader)
    if hasattr(loader.batch_sampler, '__len__') and len(loader.batch_sampler) == 0:
        raise ValueError('There is no iteration in a validation. Set val_dataloader.drop_last=False.')


def check_classes(model: nn.Module, dataset: Any) -> None:
    """Check that the heads of a classifier or segmentor have an output for each class of the data.

    Detectors are checked by mmdet's NumClassCheckHook, because panoptic heads predict a subset of the
    classes.

    Raises:
        ValueError: If a head has too few outputs, or ``metainfo`` has the key ``CLASSES``, used before
            mmengine.
    """
    check_metainfo(dataset)
    classes = metainfo_of(dataset).get('classes') or ()
    for name in ('head', 'decode_head', 'auxiliary_head'):
        heads = getattr(model, name, None)
        for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
            outputs = getattr(head, 'num_classes', None)
            if isinstance(outputs, int) and outputs < len(classes):
                first = ', '.join(map(str, classes[:3]))
                raise ValueError(
                    f'The training data have {len(classes)} classes ({first}, ...) and the {name} has '
                    f'{outputs}: set model.{name}.num_classes={len(classes)}, or name the '
                    f'classes to train on in train_dataloader.dataset.metainfo.'
                )


def metainfo_of(dataset: Any) -> Mapping[str, Any]:
    """Return the metainfo of a dataset (dict), {} if it has none.

    mmdet's ConcatDataset (3.3.0) has a list if its datasets differ; the first one is returned.
    """
    metainfo = getattr(dataset, 'metainfo', None) or {}
    return metainfo[0] if isinstance(metainfo, list) else metainfo


def check_metainfo(dataset: Any) -> None:
    """Check that the class names of a dataset are under the key that mmengine reads.

    Raises:
        ValueError: If they are under ``CLASSES``, the key before mmengine.
    """
    metainfo = metainfo_of(dataset)
    if 'CLASSES' in metainfo and 'num_keypoints' not in metainfo:  # mmpose's datasets set both themselves
        raise ValueError(
            "The names of the classes are given as metainfo=dict(CLASSES=...), which mmengine's datasets do "
            'not read: write metainfo=dict(classes=...).'
        )


def warn_of_masks(runner: Runner, loader: DataLoader, training: bool = False) -> None:
    """Log a warning about the masks of a segmentor, see :func:`check_masks`.

    Raises:
        ValueError: If masks are not label maps or, in training, have invalid labels.
    """
    message = check_masks(unwrap_model(runner.model), loader.dataset, training)
    if message:
        runner.logger.warning(message)


def check_smallest_batch(model: nn.Module, loader: DataLoader) -> None:
    """Check that batch norms get more than one value per channel in the smallest batch of an epoch.

    If the smallest batch is one image, a copy of the model computes the loss of the first image.

    Raises:
        ValueError: If a batch norm gets one value per channel.
    """
    if smallest_batch(loader) != 1 or not isinstance(model, BaseModel):
        return
    copied = copy.deepcopy(model).train()
    for name, module in copied.named_modules():
        if isinstance(module, nn.SyncBatchNorm):  # its statistics cover all processes
            module.eval()
        elif isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(_refuse_single_values(name, 1 in batch_sizes(loader)))
    with same_random_numbers(), torch.no_grad():
        batch = loader.collate_fn([loader.dataset[0]])
        batch = copied.data_preprocessor(batch, True)
        if isinstance(batch, dict):
            copied(**batch, mode='loss')
        else:
            copied(*batch, mode='loss')


def smallest_batch(loader: DataLoader) -> int | None:
    """Return the size of the smallest batch of an epoch (int), or None if it is unknown."""
    batches, sizes = loader.batch_sampler, batch_sizes(loader)
    if not sizes or batches.drop_last or is_endless(loader) or 1 in sizes:
        return min(sizes, default=None)
    return len(batches.sampler) % sizes[0] or sizes[0] if len(sizes) == 1 else None


def batch_sizes(loader: DataLoader) -> list[int]:
    """Return the batch sizes of a dataloader (list[int]); [] if they are unknown.

    With mmdet's MultiDataAspectRatioBatchSampler (3.3.0), a batch has images of one of several datasets, each
    of which has a batch size.
    """
    given = getattr(loader.batch_sampler, 'batch_size', None)
    return list(given) if isinstance(given, Sequence) else [] if given is None else [given]


def is_endless(loader: DataLoader) -> bool:
    """Whether a dataloader is infinite, so that all its batches are full (bool)."""
    return isinstance(sampler_of(loader), InfiniteSampler) or mixes_datasets(loader)


def mixes_datasets(loader: DataLoader) -> bool:
    """Whether all batches have images of several datasets, as in mmdet's semi-supervised training (bool).

    mmdet's MultiSourceSampler and GroupMultiSourceSampler (3.3.0) are infinite.
    """
    return hasattr(sampler_of(loader), 'source_ratio')


def sampler_of(loader: DataLoader) -> Sampler:
    """Return the sampler that chooses the images of a dataloader (Sampler)."""
    # With a custom batch sampler, DataLoader.sampler is a default that is not used.
    return getattr(loader.batch_sampler, 'sampler', loader.sampler)


def _refuse_single_values(name, always):
    """Return a pre-forward hook for batch norms with a more helpful error than torch's."""

    def check(module, inputs):
        if module.training and inputs[0].numel() == inputs[0].shape[1]:
            where = 'Batches have' if always else 'The last batch of an epoch has'
            raise ValueError(
                f'{where} one image, of which the batch norm {name} sees one value per channel, too few to '
                f'train with. Set train_dataloader.batch_size to 2 or more and drop_last=True, or another '
                f'batch_size that leaves no single image.'
            )

    return check


# Schedule.


def late_schedulers(runner: Runner) -> list[str]:
    """Return one sentence for each scheduler that never begins or whose warm-up exceeds the training."""
    schedulers = runner.param_schedulers or []
    if isinstance(schedulers, dict):
        schedulers = [scheduler for several in schedulers.values() for scheduler in several]
    sentences = [late_scheduler(each, runner.max_epochs, runner.max_iters) for each in schedulers]
    return [sentence for sentence in sentences if sentence]


def late_scheduler(scheduler: Any, epochs: int, iterations: int) -> str:
    """Return a sentence if a scheduler never begins or its warm-up exceeds the training (str), '' otherwise.

    Args:
        scheduler (_ParamScheduler): The scheduler.
        epochs (int): Epochs of the training.
        iterations (int): Iterations of the training.
    """
    unit, steps = ('epochs', epochs) if scheduler.by_epoch else ('iterations', iterations)
    name = type(scheduler).__name__
    if scheduler.begin >= steps > 0:
        return f'{name} begins after {scheduler.begin} of {steps} {unit}, so it never does.'
    if is_warmup(scheduler) and scheduler.end > steps:
        return f'{name} warms up for {scheduler.end} of {steps} {unit}, so the full value is never reached.'
    return ''


def is_warmup(scheduler: Any) -> bool:
    """Whether a scheduler of mmengine is a warm-up, after which a value is the base value (bool)."""
    if isinstance(scheduler, ConstantParamScheduler):
        return scheduler.factor < 1
    return getattr(scheduler, 'start_factor', 1) < getattr(scheduler, 'end_factor', 0)
