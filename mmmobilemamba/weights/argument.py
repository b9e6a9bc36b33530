"""Checkpoints as command line arguments."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path

from .table import SCHEME, weights_of


def checkpoint_argument(text: str) -> Path | str:
    """Parse a checkpoint on the command line; a ``type`` for argparse.

    ``Path`` as the type would turn ``mobilemamba://b1`` into ``mobilemamba:/b1``.

    Args:
        text (str): A file, a name such as ``mobilemamba://b1``, or another URL supported by mmengine.

    Returns:
        Path | str: Files as paths, names and URLs unchanged, for
        :func:`~mmmobilemamba.models.checkpoint.fetch_checkpoint`.

    Raises:
        ArgumentTypeError: If no weights have this name; the message lists the names.
    """
    if text.startswith(SCHEME):
        try:
            weights_of(text)
        except ValueError as error:
            raise ArgumentTypeError(str(error)) from error
    return text if '://' in text else Path(text)
