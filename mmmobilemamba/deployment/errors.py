"""Errors of the export, and a context that translates those of PyTorch's exporter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.utils import digit_version

EXPORT_SINCE = '2.8'  # oldest torch whose ONNX exporter supports the dynamic sizes of our graphs


class DeploymentError(RuntimeError):
    """A network cannot be exported; the message says why and what to do."""


def check_torch() -> None:
    """Check that the installed PyTorch supports the export.

    Raises:
        DeploymentError: If it is older than ``EXPORT_SINCE``.
    """
    if digit_version(torch.__version__) < digit_version(EXPORT_SINCE):
        raise DeploymentError(f'exports need torch {EXPORT_SINCE} or newer, and this is {torch.__version__}.')


@contextmanager
def refusing(what: str = 'export it', dynamic_sizes: bool = False) -> Iterator[None]:
    """Convert errors of PyTorch's exporter, or of the model during export, to :class:`DeploymentError`.

    Args:
        what (str): The operation, for the message "PyTorch cannot ...".
        dynamic_sizes (bool): Whether the message suggests a fixed size instead.

    Raises:
        DeploymentError: If the body raises a RuntimeError, TypeError, ValueError, AssertionError or
            AttributeError.
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
