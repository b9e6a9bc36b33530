"""Where mmengine and mmpretrain load weights: rewrites state dicts in place, and ``init_cfg``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.runner import CheckpointLoader
from torch import Tensor

from .convert import convert_head
from .fit import adapt_input, check_form, check_overlap, fitting_weights, is_beyond, is_deployed
from .layout import is_authors, is_fused, is_ours
from .read import CheckpointError, entries_below, fetch_checkpoint, read_checkpoint, unwrap

if TYPE_CHECKING:
    from ..backbones import MobileMamba


# A pattern that comes after those of addresses. `force`: a module may be imported again.
@CheckpointLoader.register_scheme(r'.*\.safetensors$', force=True)
def load_from_safetensors(filename: str, map_location: str | None = None) -> Mapping:
    """The content of a local file of safetensors, for ``load_from`` and ``load_checkpoint``.

    Args:
        filename (str): Ends in ``.safetensors``.
        map_location (str, optional): As in ``torch.load``. Defaults to None, the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it cannot be read.
    """
    return read_checkpoint(filename, map_location or 'cpu')


def adapt_state_dict(backbone: MobileMamba, state_dict: dict[str, Tensor], prefix: str) -> None:
    """Rewrite the entries below ``prefix`` in place so that the backbone can load them.

    Called on every load. Our own names stay as they are, less the stages that are not built, and may be
    some of a backbone's; what does not fit is left to the caller, who reports it, unless most does not.
    Any other form (authors' names, wrapped, below ``backbone.``) must fit completely.

    Raises:
        CheckpointError: If there are entries, but not those of a MobileMamba that fits.
    """
    entries = {key: state_dict[key] for key in state_dict if key.startswith(prefix)}
    below = {key[len(prefix) :]: value for key, value in entries.items()}
    if not below:
        return
    kept = {key: value for key, value in below.items() if not is_beyond(key, len(backbone.stages))}
    # FSDP has no state dict of its own to compare with while it loads one.
    is_sharded = any(name.endswith('_fsdp_wrapped_module') for name, _ in backbone.named_modules())
    is_part = not is_sharded and kept.keys() <= backbone.state_dict().keys()
    if is_part or is_ours(below):
        if not is_part:
            check_form(is_fused(below), is_deployed(backbone), 'backbone')
        kept = adapt_input(backbone, kept)
        if not is_sharded:
            check_overlap(backbone, kept)
        for key in below:
            del state_dict[prefix + key]
        state_dict.update({prefix + key: value for key, value in kept.items()})
        return
    weights = fitting_weights(backbone, unwrap(below))
    for key in entries:
        del state_dict[key]
    state_dict.update({prefix + key: value for key, value in weights.items()})


def adapt_classifier(backbone: MobileMamba, state_dict: dict[str, Tensor], prefix: str) -> None:
    """Rewrite an authors' classifier in place to the names of mmpretrain's ``ImageClassifier``.

    Raises:
        CheckpointError: If it is an authors' checkpoint whose backbone does not fit completely.
    """
    below = {key[len(prefix) :]: state_dict[key] for key in state_dict if key.startswith(prefix)}
    inner = unwrap(below)
    if not is_authors(inner):
        return
    converted = fitting_weights(backbone, inner)
    for key in below:
        del state_dict[prefix + key]
    weights = {f'backbone.{key}': value for key, value in converted.items()}
    state_dict.update({prefix + key: value for key, value in {**weights, **convert_head(inner)}.items()})


def split_pretrained(
    init_cfg: Mapping | Sequence[Mapping] | None,
) -> tuple[list[Mapping], dict[str, Any] | None]:
    """Part an ``init_cfg`` into what mmengine does and the arguments of :func:`load_pretrained`."""
    cfgs = [init_cfg] if isinstance(init_cfg, Mapping) else list(init_cfg or [])
    pretrained = [cfg for cfg in cfgs if cfg['type'] in ('Pretrained', 'PretrainedInit')]
    others = [cfg for cfg in cfgs if cfg not in pretrained]
    if not pretrained:
        return others, None
    return others, {key: value for key, value in pretrained[-1].items() if key != 'type'}


def load_pretrained(
    backbone: MobileMamba, checkpoint: str | Path, prefix: str | None = None, map_location: str = 'cpu'
) -> None:
    """Load a whole checkpoint into a backbone: ``init_cfg=dict(type='Pretrained', ...)``.

    Args:
        backbone (MobileMamba): What is to be loaded.
        checkpoint (str): A file, or an address that mmengine understands.
        prefix (str, optional): Where the backbone is in the file, such as ``'backbone.'``. A bare
            backbone in the authors' layout is found with and without it. Defaults to None.
        map_location (str): As in ``torch.load``. Defaults to ``'cpu'``.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file cannot be read or does not fit completely.
    """
    content = fetch_checkpoint(checkpoint, map_location)
    try:
        state_dict = unwrap(content)
        state_dict = entries_below(state_dict, prefix) or state_dict
        weights = fitting_weights(backbone, state_dict)
    except CheckpointError as error:
        raise CheckpointError(f'{checkpoint} was not loaded. {error}') from error
    backbone.load_state_dict(weights)
