"""A checkpoint as the argument of a command line."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path

from .table import SCHEME, weights_of


def checkpoint_argument(text: str) -> Path | str:
    """The ``type`` of an argument of argparse that is a checkpoint.

    ``Path`` would make ``mobilemamba:/b1`` of ``mobilemamba://b1``.

    Args:
        text (str): A file, a name such as ``mobilemamba://b1``, or another address that mmengine loads.

    Returns:
        Path | str: The path of a file; names and addresses as they are, for
        :func:`~mmmobilemamba.models.checkpoint.fetch_checkpoint`.

    Raises:
        ArgumentTypeError: If there are no weights of the name; the message has the names.
    """
    if text.startswith(SCHEME):
        try:
            weights_of(text)
        except ValueError as error:
            raise ArgumentTypeError(str(error)) from error
    return text if '://' in text else Path(text)
