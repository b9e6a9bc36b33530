"""Checks that a file contains the expected weights and has not changed."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

import torch

from ..models.backbones import MobileMamba
from ..models.checkpoint import (
    CheckpointError,
    backbone_part,
    describe,
    fitting_weights,
    guess_archs,
    read_checkpoint,
    unwrap,
)
from .files import temporary_beside
from .table import Weights

# Prefix of keys that only the whole model has, by the prefix of its name in the table.
MODELS = {
    'retinanet': 'bbox_head.retina_cls.',
    'mask-rcnn': 'roi_head.mask_head.',
    'ssdlite': 'bbox_head.cls_convs.',
    'sem-fpn': 'decode_head.scale_heads.',
    'deeplabv3': 'decode_head.aspp_modules.',
    'pspnet': 'decode_head.psp_modules.',
}
CLASSIFIER = 'head.'
LOGITS = ('.l.weight', '.linear.weight')  # a classifier's last layer, in the authors' layout and in ours
CLASSES = 1000
# torch.hub and converters append the first 8 digits of a file's SHA-256 to its name.
HASH_IN_NAME = re.compile(r'-([0-9a-f]{8})$')


def check_file(path: Path, weights: Weights) -> None:
    """Compare a file with the SHA-256 stored beside it.

    If none is stored, verify the content and store the SHA-256. In a read-only folder nothing is stored, and
    the content is verified each time.

    Args:
        path (Path): The file.
        weights (Weights): The weights that it should contain.

    Raises:
        CheckpointError: If the file has changed or contains other weights.
    """
    beside = hash_file(path)
    found = sha256_of(path)
    if beside.is_file():
        _compare(path, found, beside)
        return
    in_name = HASH_IN_NAME.search(path.stem)
    if in_name and not found.startswith(in_name[1]):
        raise CheckpointError(
            f'The sha256 of {path} begins with {found[:8]}, not as its name says: the file is damaged or has '
            f'been changed. Delete it and get it again.'
        )
    try:
        check_content(path, weights)
    except CheckpointError as error:
        raise CheckpointError(
            f'{error}\nPut the right file there, or delete it: it is then downloaded at the next use.'
        ) from error
    with suppress(OSError):  # a read-only folder
        keep_hash(path, found)


def hash_file(path: Path) -> Path:
    """Return the path of a file's stored SHA-256: ``NAME.sha256`` beside it (Path)."""
    return path.with_name(f'{path.name}.sha256')


def keep_hash(path: Path, sha256: str) -> None:
    """Store the SHA-256 of a file beside it, in the format of ``sha256sum --check``."""
    temporary = temporary_beside(hash_file(path))
    try:
        temporary.write_text(f'{sha256}  {path.name}\n', encoding='utf-8')
        os.replace(temporary, hash_file(path))
    finally:
        temporary.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal (str)."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _compare(path: Path, found: str, beside: Path) -> None:
    words = beside.read_text(encoding='utf-8', errors='replace').split()
    kept = words[0].lower() if words else ''
    if kept != found:
        raise CheckpointError(
            f'{path} has the sha256 {found}, but {beside} says {kept or "nothing"}: the file is damaged, or '
            f'is another one now. Delete both to get it again; if you put another file there on purpose, '
            f'delete {beside.name} alone.'
        )


def check_content(path: Path, weights: Weights) -> None:
    """Read a file and compare arch, keys and task with the table.

    B1, B2 and B4 are the same network, and distilled weights have the same keys as the others; these cannot
    be distinguished.

    Args:
        path (Path): The file.
        weights (Weights): The weights that it should contain.

    Raises:
        CheckpointError: If the file cannot be read, or belongs to another network.
    """
    state_dict = unwrap(read_checkpoint(path))
    part = backbone_part(state_dict)
    expected = f'{path} is not the weights {weights.name!r}'
    if weights.arch not in guess_archs(part):
        raise CheckpointError(
            f'{expected}, a MobileMamba {weights.arch.upper()}: it looks like {describe(state_dict)}.'
        )
    with torch.device('meta'):
        backbone = MobileMamba(weights.arch)
    try:
        fitting_weights(backbone, state_dict)
    except CheckpointError as error:
        raise CheckpointError(f'{expected}. {error}') from error
    _check_task(state_dict, weights, expected)


def _check_task(state_dict, weights, expected):
    """Check for the keys of the task: a classifier's head, or the keys in ``MODELS``."""
    tops = sorted({key.split('.')[0] for key in state_dict if not key.startswith('backbone.')})
    if weights.task == 'classification':
        wanted = CLASSIFIER
        others = [top for top in tops if top == 'neck' or top.endswith('_head')]
    else:
        wanted = next(keys for model, keys in MODELS.items() if weights.name.startswith(model))
        others = []
    found = [key for key in state_dict if key.startswith(wanted)]
    if others:
        raise CheckpointError(
            f'{expected}: the backbone fits, but it is of a detector or segmentor, with '
            f'{" and ".join(others)}, and not of a classifier.'
        )
    if not found:
        raise CheckpointError(
            f'{expected}: the backbone fits, but a whole model for {weights.task} has keys that begin with '
            f'{wanted!r}.'
        )
    classes = [len(state_dict[key]) for key in found if key.endswith(LOGITS)]
    if weights.task == 'classification' and classes != [CLASSES]:
        raise CheckpointError(f'{expected}: it has {classes} classes and not the {CLASSES} of ImageNet.')
