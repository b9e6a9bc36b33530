"""Reads checkpoints of MobileMamba safely and converts the authors' names to those of this package.

The authors publish flat state dicts, and dicts that contain one under ``net_E`` (the EMA, whose
accuracy they publish), ``net``, ``model`` or ``state_dict``. Keys may start with ``module.``. A
checkpoint must match completely; otherwise loading fails and the message gives the reason.

===========  ==========================================================
``read``     reads a file without running code, unwraps its state dict
``names``    maps the authors' names to those of this package
``layout``   detects the layout and the arch of a state dict
``convert``  converts a state dict from the authors' layout
``fit``      compares weights with a network
``hooks``    called by mmengine and mmpretrain when they load weights
===========  ==========================================================

Each module imports only from those above it.
"""

from .convert import convert_backbone, convert_head
from .fit import (
    adapt_input,
    check_fit,
    check_form,
    check_overlap,
    fitting_weights,
    is_deployed,
    load_whole_model,
)
from .hooks import adapt_classifier, adapt_state_dict, load_pretrained, split_pretrained
from .layout import backbone_part, describe, guess_archs, is_authors, is_fused, is_ours
from .names import HEAD_RENAMES, RENAMES, rename
from .read import WRAPPERS, CheckpointError, entries_below, fetch_checkpoint, read_checkpoint, unwrap

__all__ = [
    'HEAD_RENAMES',
    'RENAMES',
    'WRAPPERS',
    'CheckpointError',
    'adapt_classifier',
    'adapt_input',
    'adapt_state_dict',
    'backbone_part',
    'check_fit',
    'check_form',
    'check_overlap',
    'convert_backbone',
    'convert_head',
    'describe',
    'entries_below',
    'fetch_checkpoint',
    'fitting_weights',
    'guess_archs',
    'is_authors',
    'is_deployed',
    'is_fused',
    'is_ours',
    'load_pretrained',
    'load_whole_model',
    'read_checkpoint',
    'rename',
    'split_pretrained',
    'unwrap',
]
