"""Checkpoints of MobileMamba: reading them safely, and from the authors' names to ours.

The authors publish flat state dicts, or dicts that hold one under ``net_E`` (the moving average,
whose accuracy they publish), ``net``, ``model`` or ``state_dict``, with ``module.`` in front of the
keys or not. A checkpoint must match completely; otherwise loading fails and says why.

===========  ==========================================================
``read``     reads a file without running code, unwraps its state dict
``names``    the table of the authors' names and ours
``layout``   tells whose layout a state dict has, and which arch
``convert``  converts a state dict from the authors' layout to ours
``fit``      compares weights with a network
``hooks``    is called by mmengine and mmpretrain when weights are loaded
===========  ==========================================================

Each imports only from those above it.
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
