"""The check of a model's maps at the start of a training, also with configs that know nothing of it.

A stock config in which only the backbone was changed trains and is silently wrong, as the maps of MobileMamba
are coarser than others'. Nothing but the backbone of such a run is of this package. mmengine's loops call
``train()`` of the whole model before the first step, outside of whatever is compiled or traced.
"""

from __future__ import annotations

import inspect

from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .finding import Finding, config_lines, merge
from .maps import FAILURES, MapsError, Part, maps_of, parts_of
from .sides import check_sides
from .strides import SIDE, check_strides
from .widths import check_heads, check_neck

SWITCH = 'mobilemamba_check'  # in a config: False to train what is refused here
DONE = 'mobilemamba_checked'  # in the message hub of a Runner


def check_maps(part: Part, config: Config) -> list[Finding]:
    """All that is to be said of the maps of a model: strides, levels, channels, sides.

    Args:
        part (Part): The model, or the part of it that has the backbone.
        config (Config): The whole config.
    """
    try:
        maps = maps_of(part, SIDE, SIDE)
    except MapsError as error:
        return [check_neck(part, config, str(error))]
    return [
        *check_strides(part, config),
        *check_heads(part, config, maps),
        *check_sides(part, config),
    ]


def check_at_start(backbone: nn.Module) -> None:
    """Check the model of the Runner whose training is about to begin, once in a run.

    Called when a backbone is set to training. Outside of a Runner's training loop nothing happens.

    Args:
        backbone (nn.Module): One of ours.

    Raises:
        ValueError: If the model is wrong, with the lines of config that mend it.
    """
    runner = starting_runner()
    if runner is None or not runner.cfg.get(SWITCH, True):
        return
    hub: MessageHub = runner.message_hub
    if hub.get_info(DONE):
        return
    hub.update_info(DONE, True, resumed=False)
    model = runner.model
    while isinstance(model, DistributedDataParallel):
        model = model.module
    if is_model_wrapper(model):  # a part of what FSDP wraps cannot be looked at alone
        return
    try:
        findings = [
            found for part in parts_of(model, type(backbone)) for found in check_maps(part, runner.cfg)
        ]
    except FAILURES as error:  # of a model that is unlike those of OpenMMLab
        runner.logger.warning(f'The maps of this model could not be checked: {type(error).__name__}: {error}')
        return
    errors = [finding for finding in findings if finding.level == 'error']
    if errors:
        raise ValueError(refusal(errors, python_style(runner.cfg)))


def starting_runner() -> Runner | None:
    """The Runner in whose training loop this is called, None elsewhere.

    mmengine (0.10.7) hands its Runner to hooks alone, and a stock config has none of ours, so the loop is
    looked for among the callers.
    """
    frame = inspect.currentframe()
    while frame is not None:
        loop = frame.f_locals.get('self')
        if isinstance(loop, BaseLoop):
            return loop.runner if loop is loop.runner._train_loop else None
        frame = frame.f_back
    return None


def python_style(config: Config) -> bool:
    """Whether a config is in mmengine's pure Python style, with classes and functions for types."""
    return callable((config.get('model') or {}).get('type'))


def refusal(errors: list[Finding], pure: bool) -> str:
    """What is said instead of a training."""
    lines = ['This model would not learn what it is meant to, so the training does not begin.']
    lines += [f'- {error.text}' for error in errors]
    mend = merge(error.mend for error in errors)
    other = (
        merge(error.other or error.mend for error in errors) if any(error.other for error in errors) else {}
    )
    if mend:
        lines += ['What mends it, in a config that inherits this one:', *config_lines(mend, pure)]
    if other:
        lines += ['or, with the maps as they are:', *config_lines(other, pure)]
    lines.append(
        f'`mim run mmmobilemamba check CONFIG` says more. {SWITCH} = False in the config trains it as it is.'
    )
    return '\n'.join(lines)
