"""Converters for mobile and server runtimes.

All of them convert the same network, :func:`~..portable.portable`.
"""

from pathlib import Path

from .coreml import CoreMl
from .executorch import ExecuTorch
from .litert import LiteRt
from .mnn import Mnn
from .ncnn import Ncnn
from .openvino import OpenVino
from .target import Target, about_of

RUNTIMES = (Ncnn(), Mnn(), OpenVino(), LiteRt(), ExecuTorch(), CoreMl())
TARGETS: dict[str, Target] = {target.suffix: target for target in RUNTIMES}

__all__ = ['TARGETS', 'Target', 'about_of', 'target_of']


def target_of(path: Path) -> Target | None:
    """Return the runtime of a file extension (Target), or None."""
    return TARGETS.get(Path(path).suffix)
