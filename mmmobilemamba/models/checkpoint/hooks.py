"""Entry points of mmengine and mmpretrain for loading weights: rewrites state dicts and ``init_cfg``."""

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


# Patterns of URL schemes are matched first. `force`, as the module may be imported again.
@CheckpointLoader.register_scheme(r'.*\.safetensors$', force=True)
def load_from_safetensors(filename: str, map_location: str | None = None) -> Mapping:
    """Read a local safetensors file, for ``load_from`` and mmengine's ``load_checkpoint``.

    Args:
        filename (str): Path that ends in ``.safetensors``.
        map_location (str, optional): As in ``torch.load``. Defaults to None, the CPU.

    Returns:
        dict[str, Tensor]: Content of the file.

    Raises:
        FileNotFoundError: If the file does not exist.
        CheckpointError: If the file cannot be read or safetensors is not installed.
    """
    return read_checkpoint(filename, map_location or 'cpu')


def adapt_state_dict(backbone: MobileMamba, state_dict: dict[str, Tensor], prefix: str) -> None:
    """Rewrite the entries below ``prefix`` in place so that the backbone can load them.

    Called on every load. Entries under the names of this package may be incomplete. They are kept, except
    those of stages that are not built, and the caller reports keys that do not match; only if less than half
    match is an error raised here. Any other layout (authors' names, wrapped, below ``backbone.``) must match
    completely.

    Args:
        backbone (MobileMamba): The backbone to load.
        state_dict (dict[str, Tensor]): State dict of the whole model.
        prefix (str): Name of the backbone in the model, with the dot, or ''.

    Raises:
        CheckpointError: If there are entries below ``prefix`` that do not match the backbone.
    """
    entries = {key: state_dict[key] for key in state_dict if key.startswith(prefix)}
    below = {key[len(prefix) :]: value for key, value in entries.items()}
    if not below:
        return
    kept = {key: value for key, value in below.items() if not is_beyond(key, len(backbone.stages))}
    # While FSDP loads a state dict, the network has none to compare it with.
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
    """Rewrite a classifier in the authors' layout in place to the names of mmpretrain's ``ImageClassifier``.

    Other state dicts are not changed.

    Args:
        backbone (MobileMamba): The backbone of the classifier to load.
        state_dict (dict[str, Tensor]): State dict of the whole model.
        prefix (str): Name of the classifier in the model, with the dot, or ''.

    Raises:
        CheckpointError: If the layout is the authors' and the backbone does not match completely.
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
    """Split an ``init_cfg``.

    Args:
        init_cfg (dict | list[dict], optional): As in mmengine.

    Returns:
        tuple[list[dict], dict | None]: The initialisers that mmengine runs, and the arguments for
        :func:`load_pretrained` of the last ``Pretrained``, None if there is none.
    """
    cfgs = [init_cfg] if isinstance(init_cfg, Mapping) else list(init_cfg or [])
    kinds = ('Pretrained', 'PretrainedInit')  # a class in pure Python style
    pretrained = [cfg for cfg in cfgs if getattr(cfg['type'], '__name__', cfg['type']) in kinds]
    others = [cfg for cfg in cfgs if cfg not in pretrained]
    if not pretrained:
        return others, None
    return others, {key: value for key, value in pretrained[-1].items() if key != 'type'}


def load_pretrained(
    backbone: MobileMamba, checkpoint: str | Path, prefix: str | None = None, map_location: str = 'cpu'
) -> None:
    """Load a complete checkpoint into a backbone, as ``init_cfg=dict(type='Pretrained', ...)`` does.

    Args:
        backbone (MobileMamba): The backbone to load.
        checkpoint (str | Path): A file, or a URL that mmengine can load.
        prefix (str, optional): Prefix of the backbone's keys in the file, such as ``'backbone.'``. It is
            ignored if no key has it. Defaults to None.
        map_location (str): As in ``torch.load``. Defaults to ``'cpu'``.

    Raises:
        FileNotFoundError: If the file does not exist.
        CheckpointError: If the file cannot be read or does not match completely.
    """
    content = fetch_checkpoint(checkpoint, map_location)
    try:
        state_dict = unwrap(content)
        state_dict = entries_below(state_dict, prefix) or state_dict
        weights = fitting_weights(backbone, state_dict)
    except CheckpointError as error:
        raise CheckpointError(f'{checkpoint} was not loaded. {error}') from error
    backbone.load_state_dict(weights)
