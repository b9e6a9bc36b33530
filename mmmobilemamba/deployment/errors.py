"""What is said when a network cannot leave PyTorch, and what is not said."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.utils import digit_version

EXPORT_SINCE = '2.8'  # the oldest torch whose exporter to ONNX takes free sizes as our graphs have them


class DeploymentError(RuntimeError):
    """A network cannot leave PyTorch; the message says why and what to do."""


def check_torch() -> None:
    """Make sure that this PyTorch can export.

    Raises:
        DeploymentError: If it is older than ``EXPORT_SINCE``.
    """
    if digit_version(torch.__version__) < digit_version(EXPORT_SINCE):
        raise DeploymentError(f'exports need torch {EXPORT_SINCE} or newer, and this is {torch.__version__}.')


@contextmanager
def refusing(what: str = 'export it', dynamic_sizes: bool = False) -> Iterator[None]:
    """Turns what PyTorch's exporter, or a model on its way, stumbles over into a :class:`DeploymentError`.

    Args:
        what (str): What PyTorch is about to do.
        dynamic_sizes (bool): Whether one size instead of any may be the way out.
    """
    try:
        yield
    except DeploymentError:
        raise
    except (RuntimeError, TypeError, ValueError, AssertionError, AttributeError) as error:
        text = ' '.join(str(error.__cause__ or error).split())[:400]
        advice = ' Give --size HEIGHT WIDTH instead of --dynamic, if one will do.' if dynamic_sizes else ''
        raise DeploymentError(
            f'PyTorch {torch.__version__} cannot {what}: {text.rstrip(".")}.{advice}'
        ) from error


@contextmanager
def quietly() -> Iterator[None]:
    """Without what PyTorch's exporter says on its way, which is about its own insides."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
