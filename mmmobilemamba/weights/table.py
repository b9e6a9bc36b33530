"""The table of the authors' published checkpoints.

The table is ``weights.json``; tests compare metafiles and docs with it. Source of its ids and scores:
https://github.com/lewandofskee/MobileMamba at commit 0980f48, the README and the logs.
"""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

SCHEME = 'mobilemamba://'  # prefix of a name wherever a checkpoint is expected
DRIVE = 'https://drive.usercontent.google.com/download'
ARCHIVE = '1EDqWI6JKMaLZRSRWt9aM7VXaNvosStGE'  # Google Drive id of the archive with all checkpoints


class Weights(NamedTuple):
    """A published checkpoint.

    Attributes:
        name (str): Name after ``mobilemamba://``.
        arch (str): Arch of the backbone.
        task (str): ``'classification'``, ``'detection'`` or ``'segmentation'``.
        drive_id (str): Id of the file on Google Drive.
        file_name (str): Name of the local file; for classifiers, the same as the authors'.
        config (str): Name of the matching config, without folder and ``.py``.
        metric (str): Name of the metric.
        score (float): The authors' score in %.
    """

    name: str
    arch: str
    task: str
    drive_id: str
    file_name: str
    config: str
    metric: str
    score: float

    @property
    def address(self) -> str:
        """URL of the file for browsers (str)."""
        return f'https://drive.google.com/file/d/{self.drive_id}/view'

    @property
    def url(self) -> str:
        """URL of the file for ``mim download``, used as ``Weights`` in metafiles (str).

        ``confirm=t`` skips the page that Google shows before large files. The part after ``#`` is not sent to
        the server; mim uses it as the file name. mmengine resolves the URL like the name.
        """
        return f'{DRIVE}?id={self.drive_id}&export=download&confirm=t#/{self.file_name}'


TABLE = json.loads(Path(__file__).with_name('weights.json').read_text(encoding='utf-8'))
WEIGHTS = tuple(Weights(**entry) for entry in TABLE)
BY_NAME = {weights.name: weights for weights in WEIGHTS}
BY_URL = {weights.url: weights for weights in WEIGHTS}
BY_CONFIG = {weights.config: weights for weights in WEIGHTS}


def weights_of(name: str) -> Weights:
    """Return the table entry of a name (Weights).

    Args:
        name (str): A name such as ``'b1'``, case-insensitive, or the name of the matching config, each with
            or without ``mobilemamba://``; or a URL of a metafile.

    Raises:
        ValueError: If the name does not exist; the message lists all names.
    """
    if name in BY_URL:
        return BY_URL[name]
    short = name.removeprefix(SCHEME)
    plain = short.lower()
    for table in (BY_NAME, BY_CONFIG):
        if plain.removesuffix('.py') in table:
            return table[plain.removesuffix('.py')]
    # Normalise the spelling of file names and timm models, for the suggestion.
    plain = re.sub(r'^mobilemamba[_-]|\.pth$', '', plain).replace('_', '-').replace('distilled', 'kd')
    close = [plain] if plain in BY_NAME else get_close_matches(plain, BY_NAME, n=1)
    raise ValueError(
        f'There are no published weights named {short!r}{f"; {close[0]!r} is close" if close else ""}. The '
        f'names are {", ".join(BY_NAME)}.'
    )
