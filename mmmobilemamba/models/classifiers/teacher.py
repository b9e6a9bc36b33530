"""The frozen teacher of a distillation: built late, loaded completely or not at all, never trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.models.classifiers import BaseClassifier
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..checkpoint import CheckpointError, entries_below, fetch_checkpoint, split_pretrained, unwrap


class FrozenTeacher:
    """A classifier that gives targets to a student.

    It is no ``nn.Module``, so that a student can hold it without owning it: it has no part in the
    student's parameters, buffers, checkpoints, modes and conversions, and copies of a student share it.

    Args:
        source (dict | BaseClassifier): The teacher, or the config from which :meth:`build` makes it.
        input_size (int): Height and width in pixels of the images that it sees.

    Attributes:
        classifier (BaseClassifier | None): The teacher, once it is built.

    Raises:
        TypeError: If ``source`` is neither.
        ValueError: If ``input_size`` is not a positive whole number.
    """

    def __init__(self, source, input_size):
        if not isinstance(source, (Mapping, BaseClassifier)):
            raise TypeError(
                f'teacher must be the config or an instance of a classifier of mmpretrain, not '
                f'{source!r}. To train without one, use ImageClassifier.'
            )
        if not isinstance(input_size, int) or input_size < 1:
            raise ValueError(f'teacher_size must be a number of pixels from 1 up, not {input_size!r}.')
        self.source = source
        self.input_size = input_size
        self.classifier = None

    def __deepcopy__(self, memo):
        return self

    def build(self, to_rgb: bool) -> None:
        """Build the teacher, load its weights and freeze it; once is enough.

        Args:
            to_rgb (bool): Whether the student's images are converted from BGR to RGB.

        Raises:
            CheckpointError, FileNotFoundError: If its checkpoint cannot be read or does not fit completely.
            TypeError, ValueError: If it is no classifier, or lacks weights or a normalisation.
        """
        if self.classifier is not None:
            return
        is_config = isinstance(self.source, Mapping)
        classifier = build_with_weights(self.source) if is_config else self.source
        check_preprocessor(classifier.data_preprocessor, to_rgb)
        self.classifier = classifier.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) of values 0 to 255, on any device -> the teacher's logits (N, classes)."""
        preprocessor = self.classifier.data_preprocessor
        if preprocessor.mean.device != images.device:
            self.classifier.to(images.device)
        images = (images - preprocessor.mean) / preprocessor.std
        size = (self.input_size, self.input_size)
        if images.shape[2:] != size:
            images = F.interpolate(images, size, mode='bicubic', align_corners=False)
        return self.classifier(images, mode='tensor')


def build_with_weights(config: Mapping[str, Any]) -> BaseClassifier:
    """Build a classifier with all its weights.

    ``init_weights`` is not called: whole checkpoints leave nothing to initialise, and on many networks
    of timm it would wipe out the weights loaded at construction.

    Raises:
        CheckpointError, FileNotFoundError: If its checkpoint cannot be read or does not fit completely.
        TypeError: If the config is not that of a classifier.
        ValueError: If the config names no weights.
    """
    classifier = MODELS.build(copy.deepcopy(config))
    if not isinstance(classifier, BaseClassifier):
        raise TypeError(f'teacher must be a classifier of mmpretrain, not {type(classifier).__name__}.')
    _, pretrained = split_pretrained(classifier.init_cfg)
    if pretrained is not None:
        load_whole(classifier, **pretrained)
    elif not (config.get('pretrained') or config.get('checkpoint_path')):
        raise ValueError(
            f'The teacher {config["type"]} names no weights, and a random one teaches noise. Give it '
            f"init_cfg=dict(type='Pretrained', checkpoint=...), or, as a TimmClassifier, pretrained=True or "
            f'checkpoint_path=...'
        )
    return classifier


def load_whole(
    classifier: BaseClassifier, checkpoint: str, prefix: str = '', map_location: str = 'cpu'
) -> None:
    """Load a checkpoint into a classifier, whose names and shapes must agree completely.

    Args:
        classifier (BaseClassifier): What is to be loaded.
        checkpoint (str): A file, or an address that mmengine understands.
        prefix (str): Where the classifier is in the file. Defaults to '', all of it.
        map_location (str): As in ``torch.load``. Defaults to ``'cpu'``.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file cannot be read or does not fit completely.
    """
    content = fetch_checkpoint(checkpoint, map_location)
    try:
        classifier.load_state_dict(entries_below(unwrap(content), prefix))
    except RuntimeError as error:
        raise CheckpointError(f'{checkpoint} was not loaded into the teacher. {error}') from error


def check_preprocessor(preprocessor: nn.Module, to_rgb: bool) -> None:
    """The teacher must say how it wants its images.

    Raises:
        ValueError: If it states no normalisation, or another order of channels than the student's.
    """
    wanted = 'data_preprocessor=dict(mean=[...], std=[...], to_rgb=...)'
    if getattr(preprocessor, 'mean', None) is None:
        raise ValueError(f'The teacher states no normalisation. Give it {wanted}, in units of 0 to 255.')
    if preprocessor.to_rgb != to_rgb:
        raise ValueError(
            f'The student has to_rgb={to_rgb}, the teacher to_rgb={preprocessor.to_rgb}, but both see the '
            f'same channels. Give the teacher {wanted} with the to_rgb of the student.'
        )
