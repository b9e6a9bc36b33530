"""The frozen teacher of a distillation: built late, loaded completely, never trained."""

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
    """A classifier that provides targets for a student.

    It is not an ``nn.Module``, so it is not part of the student's parameters, buffers and checkpoints, and
    not affected by its modes and conversions. Copies of a student share the teacher.

    Args:
        source (dict | BaseClassifier): The teacher, or the config from which :meth:`build` builds it.
        input_size (int): Height and width of its images in pixels.

    Attributes:
        classifier (BaseClassifier | None): The teacher; None until it is built.

    Raises:
        TypeError: If ``source`` is neither a config nor a classifier of mmpretrain.
        ValueError: If ``input_size`` is not a positive integer.
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
        """Build the teacher, load its weights and freeze it. A second call does nothing.

        Args:
            to_rgb (bool): Whether the student's images are converted from BGR to RGB.

        Raises:
            CheckpointError, FileNotFoundError: If its checkpoint cannot be read or does not match completely.
            TypeError, ValueError: If it is not a classifier, lacks weights or a normalisation, or has another
                ``to_rgb``.
        """
        if self.classifier is not None:
            return
        is_config = isinstance(self.source, Mapping)
        classifier = build_with_weights(self.source) if is_config else self.source
        check_preprocessor(classifier.data_preprocessor, to_rgb)
        self.classifier = classifier.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in units of 0 to 255, on any device -> logits of the teacher (N, classes)."""
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

    ``init_weights`` is not called: a complete checkpoint leaves nothing to initialise, and in many timm
    networks it would overwrite the weights loaded at construction.

    Args:
        config (dict): Config of a classifier of mmpretrain.

    Returns:
        BaseClassifier: The classifier.

    Raises:
        CheckpointError, FileNotFoundError: If its checkpoint cannot be read or does not match completely.
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
    """Load a checkpoint into a classifier; all names and shapes must match.

    Args:
        classifier (BaseClassifier): The classifier to load.
        checkpoint (str): A file, or a URL that mmengine can load.
        prefix (str): Prefix of the classifier's keys in the file. Defaults to '', all of it.
        map_location (str): As in ``torch.load``. Defaults to ``'cpu'``.

    Raises:
        FileNotFoundError: If the file does not exist.
        CheckpointError: If the file cannot be read or does not match completely.
    """
    content = fetch_checkpoint(checkpoint, map_location)
    try:
        classifier.load_state_dict(entries_below(unwrap(content), prefix))
    except RuntimeError as error:
        raise CheckpointError(f'{checkpoint} was not loaded into the teacher. {error}') from error


def check_preprocessor(preprocessor: nn.Module, to_rgb: bool) -> None:
    """Check that a teacher's preprocessor has a normalisation and the student's order of channels.

    Raises:
        ValueError: If it has no ``mean``, or another ``to_rgb`` than the student.
    """
    wanted = 'data_preprocessor=dict(mean=[...], std=[...], to_rgb=...)'
    if getattr(preprocessor, 'mean', None) is None:
        raise ValueError(f'The teacher states no normalisation. Give it {wanted}, in units of 0 to 255.')
    if preprocessor.to_rgb != to_rgb:
        raise ValueError(
            f'The student has to_rgb={to_rgb}, the teacher to_rgb={preprocessor.to_rgb}, but both see the '
            f'same channels. Give the teacher {wanted} with the to_rgb of the student.'
        )
