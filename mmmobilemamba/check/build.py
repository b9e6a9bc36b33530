"""Builds the model of a config, and suggests changes if that fails."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.utils import import_modules_from_strings
from torch import nn

from ..utils.codebase import CODEBASES
from .failures import FAILURES, describe
from .finding import Finding, importing, nest

STAGES = 3
# Sources of weights of other networks, as in the init_cfg of stock configs.
FOREIGN = r'(torchvision|open-mmlab|openmmlab|mmcls|timm|modelzoo)://'


def build_model(config: Config) -> nn.Module | Finding:
    """Build the model of a config without loading weights.

    Returns:
        nn.Module | Finding: The model, or the error.
    """
    settings = config.get('model')
    if not isinstance(settings, Mapping):
        return Finding('error', 'model', 'The config has no model.')
    scope = config.get('default_scope')
    if scope and find_spec(scope) is None:
        text = f'The config needs {scope}, which is not installed.'
        return Finding('error', 'model', text, f'Install it: mim install {scope}')
    settings = copy.deepcopy(dict(settings))  # mmseg's EncoderDecoder writes into it
    if 'data_preprocessor' in config:  # as in the Runner
        settings.setdefault('data_preprocessor', config['data_preprocessor'])
    try:
        import_modules_from_strings(**(config.get('custom_imports') or dict(imports=None)))
        return MODELS.build(settings)
    except FAILURES as error:
        text = f'The model cannot be built: {describe(error)}'
        return Finding('error', 'model', text, *advise(config, str(error)))


def advise(config: Config, message: str) -> tuple[str, dict[str, Any]]:
    """Return the advice for a model that cannot be built: a text and config changes, empty if unknown.

    Args:
        config (Config): The whole config.
        message (str): The message of the error.
    """
    settings = config['model']
    backbone = settings.get('backbone')
    if 'is not in the' in message:
        scope = config.get('default_scope')
        ours = importing(config, f'mmmobilemamba.{scope}') if scope in CODEBASES else {}
        return ('', ours) if ours else ('Correct the name, or add its module to custom_imports.', {})
    if isinstance(backbone, Mapping) and 'names a stage that does not exist' in message:
        return 'MobileMamba has three stages:', nest('model.backbone.out_indices', own_stages(backbone))
    if "unexpected keyword argument 'backbone'" in message:
        return describe_place(settings), {}
    if settings.get('pretrained') and 'pretrained' in message:
        return 'The config names weights of another backbone:', nest('model.pretrained', None)
    if isinstance(backbone, Mapping) and 'unexpected keyword' in message and 'MobileMamba' in message:
        kept = ('type', 'arch', 'in_channels', 'out_indices', 'init_cfg')
        mine = {key: backbone[key] for key in kept if key in backbone}
        if 'out_indices' in mine:
            mine['out_indices'] = own_stages(mine)
        if re.match(FOREIGN, str((mine.get('init_cfg') or {}).get('checkpoint', ''))):
            del mine['init_cfg']
        advice = 'Settings of the previous backbone are inherited; _delete_ removes them:'
        return advice, nest('model.backbone', dict(_delete_=True, **mine))
    return '', {}


def describe_place(settings: Mapping[str, Any]) -> str:
    """Return the advice for a model whose backbone has another name, such as a retriever's (str)."""
    kind = getattr(settings.get('type'), '__name__', settings.get('type'))
    names = [key for key in settings if key.endswith('encoder')]
    if not names:
        return f'{kind} has no backbone that could be replaced.'
    several = isinstance(settings[names[0]], Sequence)
    place = 'the first element of the list' if several else 'the value of'
    return f'{kind} has no backbone. Put the MobileMamba into {place} {names[0]} and leave backbone out.'


def own_stages(backbone: Mapping[str, Any]) -> Any:
    """Return the ``out_indices`` of a backbone's settings without stages that MobileMamba does not have."""
    given = backbone['out_indices']
    if not isinstance(given, Sequence):
        return min(given, STAGES - 1)
    if all(index < STAGES for index in given):
        return tuple(given)
    return tuple(range(STAGES)) if len(given) > 1 else (STAGES - 1,)
