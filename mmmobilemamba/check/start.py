"""Checks the feature maps of a model at the start of a training, also for configs that do not request it.

MobileMamba's maps are coarser than those of other backbones. A stock config in which only the backbone was
replaced therefore trains, but gives wrong results silently. In such a run, the backbone is the only object of
this package, so it starts the check in its ``train()``: mmengine's loops call it before the first iteration,
outside of compiled or traced code.
"""

from __future__ import annotations

import inspect

from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .failures import FAILURES
from .finding import Finding, config_lines, merge
from .rounds import check_in_rounds

SWITCH = 'mobilemamba_check'  # config key; False disables the check
DONE = 'mobilemamba_checked'  # key in the Runner's message hub


def check_at_start(backbone: nn.Module) -> None:
    """Check the model of the Runner whose training is about to start, once per run.

    Called by ``train()`` of the backbone. Does nothing outside of a Runner's training loop.

    Args:
        backbone (MobileMamba): The backbone.

    Raises:
        ValueError: If a check finds an error; the message has the config lines that fix it.
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
    if is_model_wrapper(model):  # parts of an FSDP model cannot run separately
        return
    try:
        findings = check_in_rounds(runner.cfg, type(backbone), model).findings
    except FAILURES as error:  # the model does not follow OpenMMLab's interfaces
        runner.logger.warning(f'The maps of this model could not be checked: {type(error).__name__}: {error}')
        return
    errors = [finding for finding in findings if finding.level == 'error']
    if errors:
        raise ValueError(refusal(errors, python_style(runner.cfg)))


def starting_runner() -> Runner | None:
    """Return the Runner whose training loop is among the callers, or None.

    mmengine (0.10.7) passes its Runner to hooks only, and a stock config has none of this package's hooks.
    The loop is therefore looked up on the call stack.
    """
    frame = inspect.currentframe()
    while frame is not None:
        loop = frame.f_locals.get('self')
        if isinstance(loop, BaseLoop):
            return loop.runner if loop is loop.runner._train_loop else None
        frame = frame.f_back
    return None


def python_style(config: Config) -> bool:
    """Whether a config is in mmengine's pure Python style, with classes and functions as types (bool)."""
    return callable((config.get('model') or {}).get('type'))


def refusal(errors: list[Finding], pure: bool) -> str:
    """Return the error message that stops a training (str).

    Args:
        errors (list[Finding]): The errors.
        pure (bool): Whether the config is in mmengine's pure Python style.
    """
    lines = ['Training was not started: the model does not match the feature maps of its backbone.']
    lines += [f'- {text}' for text in dict.fromkeys(error.text for error in errors)]
    mend = merge(error.mend for error in errors)
    other = (
        merge(error.other or error.mend for error in errors) if any(error.other for error in errors) else {}
    )
    if mend:
        lines.append('To fix it, add these lines to a config that inherits from this one:')
        lines += config_lines(mend, pure)
    if other:
        lines += ['Alternatively, if finer maps cost too much:', *config_lines(other, pure)]
    lines.append(
        'For details, run `mim run mmmobilemamba check CONFIG`. '
        f'To train anyway, set {SWITCH} = False in the config.'
    )
    return '\n'.join(lines)
