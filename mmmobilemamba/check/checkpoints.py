"""Checks ``load_from``, ``init_cfg`` and checkpoints to test for missing files and mismatched weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from ..engine.training_check_hook import check_backbone, check_resumed
from ..models.arch import ARCHS, resolve_arch
from ..models.checkpoint import (
    CheckpointError,
    backbone_part,
    describe,
    fetch_checkpoint,
    load_pretrained,
    load_whole_model,
    split_pretrained,
    unwrap,
)
from ..weights import SCHEME, weights_of
from ..weights.files import find
from .build import FOREIGN
from .finding import Finding, has_error, lookup, nest, nest_in
from .maps import Part

# ImageNet's, of the authors' training, of RGB pixels from 0 to 255.
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
CLOSE = 1.0  # difference up to which a mean or a deviation is the same


def check_load_from(config: Config, model: nn.Module, parts: list[Part]) -> list[Finding]:
    """Check the checkpoint that a training starts from or resumes.

    Args:
        config (Config): The whole config.
        model (nn.Module): Its model.
        parts (list[Part]): The parts of the model that have a MobileMamba.
    """
    source = config.get('load_from')
    if config.get('resume') and not source:
        work_dir = config.get('work_dir') or Path('work_dirs', Path(config.filename or '').stem)
        if not (Path(work_dir) / 'last_checkpoint').is_file():
            text = f'resume is set, but {work_dir} has no last_checkpoint: the training starts from scratch.'
            return [Finding('warning', 'checkpoint', text)]
        source = (Path(work_dir) / 'last_checkpoint').read_text().strip()
    if not source:
        return []
    content = read(source)
    if isinstance(content, Finding):
        return [content._replace(text=f'load_from: {content.text}')]
    weights = content.get('state_dict', content)
    starts = not config.get('resume')
    try:
        check_backbone(model, weights, source)
        if not starts:
            check_resumed(model, weights)
    except CheckpointError as error:
        alone = bool(backbone_part(unwrap(weights)))
        mend = instead(parts, config, source if alone else None) if starts else {}
        return [Finding('error', 'checkpoint', f'load_from: {error}', mend=mend)]
    foreign = other_backbone(weights, parts)
    if foreign:
        text = (
            f'load_from: the backbone in {source} is that of another network: {foreign}. Only neck and heads '
            f'would be loaded, which were trained with other features.'
        )
        mend = instead(parts, config) if starts else {}
        return [Finding('error', 'checkpoint', text, mend=mend)]
    found = compare(model, weights, source)
    return [found._replace(mend=instead(parts, config)) if starts and has_error([found]) else found]


def other_backbone(weights: Mapping[str, Any], parts: list[Part]) -> str:
    """Describe the backbone in the state dict of a model if it is of another network, otherwise return ''."""
    name = next((part.name for part in parts if not part.path), None)
    own = {
        key.removeprefix(f'{name}.'): value for key, value in weights.items() if key.startswith(f'{name}.')
    }
    return describe(own) if own and not backbone_part(own) else ''


def instead(parts: list[Part], config: Config, source: str | None = None) -> dict[str, Any]:
    """Return the config changes that start a training without a ``load_from`` that does not fit.

    Args:
        parts (list[Part]): The parts of the model that have a MobileMamba.
        config (Config): The whole config.
        source (str, optional): A checkpoint of a backbone for ``init_cfg``. Defaults to None: the authors'
            weights, unless the config has others.

    Returns:
        dict: The changes, by nested keys; {} if the model has no MobileMamba.
    """
    if not parts:
        return {}
    if source is not None:
        return {'load_from': None, **pretrained(parts[0], source, config)}
    _, given = split_pretrained(parts[0].backbone.init_cfg)
    return {'load_from': None, **(published(parts[0], config) if given is None else {})}


def published(part: Part, config: Config) -> dict[str, Any]:
    """Return the config changes that load the authors' ImageNet weights into a backbone.

    Args:
        part (Part): The part that has the backbone.
        config (Config): The whole config.

    Returns:
        dict: The changes, by nested keys; {} if the backbone has no published size.
    """
    arch = (lookup(config, part.key(part.name)) or {}).get('arch')
    if isinstance(arch, str):
        return pretrained(part, f'{SCHEME}{arch.lower()}', config)
    fields = {key: value for key, value in part.backbone.arch.items() if key != 'drop_path_rate'}
    for name in ARCHS:
        if {key: resolve_arch(name)[key] for key in fields} == fields:
            return pretrained(part, f'{SCHEME}{name}', config)
    return {}


def read(source: str | Path) -> Mapping[str, Any] | Finding:
    """Read a checkpoint without downloading anything.

    Returns:
        dict | Finding: Its content, or the reason why it is not read.
    """
    try:
        if str(source).startswith(SCHEME):
            weights = weights_of(str(source))
            if find(weights) is None:
                return Finding(
                    'ok', 'checkpoint', f'{source} is not here and will be downloaded: not compared.'
                )
        elif '://' in str(source):
            return Finding('ok', 'checkpoint', f'{source} is a URL: not compared.')
        return fetch_checkpoint(source)
    except (CheckpointError, FileNotFoundError, ValueError) as error:
        return Finding('error', 'checkpoint', str(error))


def compare(model: nn.Module, weights: Mapping[str, Any], source: str) -> Finding:
    """Compare a checkpoint with a model that loads it non-strictly.

    Args:
        model (nn.Module): The model.
        weights (dict[str, Tensor]): The state dict of the checkpoint.
        source (str): Its path or address, for messages.
    """
    wanted = model.state_dict()
    saved = {re.sub(r'^module\.', '', str(key)): value for key, value in weights.items()}
    alike = [key for key in wanted if key in saved]
    fitting = [key for key in alike if saved[key].shape == wanted[key].shape]
    if not fitting and alike:
        return Finding(
            'error', 'checkpoint', f'load_from: no weight of {source} fits: it looks like {describe(saved)}.'
        )
    if not fitting:  # other key names, which the model converts
        return Finding('ok', 'checkpoint', f'load_from: {source} looks like {describe(unwrap(saved))}.')
    others = [key for key in alike if key not in fitting]
    absent = [key for key in wanted if key not in saved and not key.endswith('num_batches_tracked')]
    text = f'load_from: {len(fitting)} of {len(wanted)} weights come from {source}.'
    if not others and not absent:
        return Finding('ok', 'checkpoint', text)
    rest = [f'{key} {tuple(saved[key].shape)} instead of {tuple(wanted[key].shape)}' for key in others]
    rest += [f'{key} (missing)' for key in absent]
    more = f' and {len(rest) - 3} more' if len(rest) > 3 else ''
    text += f' Initialised anew: {"; ".join(rest[:3])}{more}.'
    return Finding(
        'warning', 'checkpoint', text, 'This is expected if the checkpoint has other classes than the config.'
    )


def pretrained(part: Part, source: str, config: Config) -> dict[str, Any]:
    """Return the config changes that load a checkpoint into a backbone (dict, nested keys).

    Args:
        part (Part): The part that has the backbone.
        source (str): Path or address of the checkpoint.
        config (Config): The whole config.
    """
    settings: Any = dict(type='Pretrained', checkpoint=str(source))
    backbone = lookup(config, part.key(part.name)) or {}
    if 'init_cfg' in backbone:  # also if it is None: mmengine cannot merge into it
        settings = dict(_delete_=True, **settings)
    return nest_in(config, part.key(f'{part.name}.init_cfg'), settings)


def check_init_cfg(part: Part, config: Config) -> Finding:
    """Check the weights that a backbone is initialised from.

    Args:
        part (Part): The model, or the part that has the backbone.
        config (Config): The whole config.
    """
    _, given = split_pretrained(part.backbone.init_cfg)
    if given is None:
        if config.get('load_from'):
            return Finding('ok', 'init_cfg', 'load_from brings the weights of the backbone.')
        return Finding('ok', 'init_cfg', 'The backbone starts from random weights.')
    source = str(given['checkpoint'])
    if re.match(FOREIGN, source):
        text = f'init_cfg: {source} has weights of another network than MobileMamba.'
        return Finding('error', 'init_cfg', text, mend=published(part, config))
    content = read(source)
    if isinstance(content, Finding):
        return content._replace(subject='init_cfg', text=f'init_cfg: {content.text}')
    try:
        load_pretrained(copy.deepcopy(part.backbone), **given)
    except (CheckpointError, FileNotFoundError) as error:
        return Finding('error', 'init_cfg', f'init_cfg: {error}', mend=published(part, config))
    return Finding('ok', 'init_cfg', f'The backbone starts from {source}, which fits.')


def check_pixels(part: Part, config: Config) -> list[Finding]:
    """Check that images are normalised as those that the authors' backbones were trained on.

    Args:
        part (Part): The model, or the part that has the backbone.
        config (Config): The whole config.
    """
    _, given = split_pretrained(part.backbone.init_cfg)
    source = str((given or {}).get('checkpoint', ''))
    inside = (config.get('model') or {}).get('data_preprocessor')
    settings = inside or config.get('data_preprocessor') or {}
    if not source.startswith(SCHEME) or part.path or len(settings.get('mean') or MEAN) != len(MEAN):
        return []
    kind = type(getattr(part.model, 'data_preprocessor', None))
    to_rgb = 'to_rgb' if 'to_rgb' in signature(kind).parameters else 'bgr_to_rgb'  # the former in mmpretrain
    found = {key: settings.get(key) for key in ('mean', 'std', to_rgb)}
    if found[to_rgb] and _is_close(found['mean'], MEAN) and _is_close(found['std'], STD):
        return []
    has = ', '.join(f'{key}={value}' for key, value in found.items())
    text = f"{source} expects RGB images with ImageNet's mean and deviation, but data_preprocessor has {has}."
    key = 'model.data_preprocessor' if inside else 'data_preprocessor'
    right = {'mean': MEAN, 'std': STD, to_rgb: True}
    return [Finding('warning', 'init_cfg', text, mend=nest(key, right))]


def _is_close(given: Any, expected: Sequence[float]) -> bool:
    """Whether a mean or a standard deviation is the expected one."""
    return isinstance(given, Sequence) and all(abs(a - b) < CLOSE for a, b in zip(given, expected))


def check_whole(model: nn.Module, source: str | Path) -> Finding:
    """Check a checkpoint to test: it must match the model completely.

    Args:
        model (nn.Module): The model; not modified.
        source (str | Path): Path or address of the checkpoint.
    """
    content = read(source)
    if isinstance(content, Finding):
        return content
    try:
        check_backbone(model, content.get('state_dict', content), str(source))
        load_whole_model(copy.deepcopy(model), content.get('state_dict', content))
    except (CheckpointError, RuntimeError) as error:
        return Finding('error', 'checkpoint', str(error))
    return Finding('ok', 'checkpoint', f'{source} fits completely.')
