"""Reports which backends run the operations of the network on this machine."""

from __future__ import annotations

from mmengine.device import get_device

from ..ops import OPERATIONS, select_backend
from .finding import Finding
from .maps import Part


def check_kernels(part: Part) -> Finding:
    """Report the backends selected for a backbone, and why the fastest one is not available."""
    asked = next((module.backend for module in part.backbone.modules() if hasattr(module, 'backend')), 'auto')
    device = get_device()
    try:
        choices = {name: select_backend(asked, device, operation=name) for name in OPERATIONS}
    except (RuntimeError, ValueError) as error:
        return Finding('error', 'kernels', f'scan_backend: {error}')
    text = ', '.join(f'{name} in {choice.backend}' for name, choice in choices.items())
    reasons = choices['scan'].passed_over
    fast = dict(cpu='cpp', cuda='triton').get(device)
    if asked == 'auto' and fast in reasons:
        return Finding(
            'warning', 'kernels', f'On {device}: {text}. Not {fast}, the fastest: {reasons[fast]}.'
        )
    return Finding('ok', 'kernels', f'On {device}: {text}.')
