"""The checkpoints that the authors publish, by name.

``weights.json`` is the table. Metafiles and docs are tested equal to it. Source of its ids and scores:
https://github.com/lewandofskee/MobileMamba at commit 0980f48, the README and the logs.
"""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

SCHEME = 'mobilemamba://'  # in front of a name wherever a checkpoint is asked for
DRIVE = 'https://drive.usercontent.google.com/download'
ARCHIVE = '1EDqWI6JKMaLZRSRWt9aM7VXaNvosStGE'  # id of the file on Google Drive that holds all of them


class Weights(NamedTuple):
    """A published checkpoint.

    Attributes:
        name (str): Behind ``mobilemamba://``.
        arch (str): Of the backbone.
        task (str): ``'classification'``, ``'detection'`` or ``'segmentation'``.
        drive_id (str): Of the file on Google Drive.
        file_name (str): What it is called where it is kept; of classifiers, by the authors as well.
        config (str): The config whose network it fits, without folder and ``.py``.
        metric (str): What the score is.
        score (float): The authors', in %.
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
        """Where a browser finds the file (str)."""
        return f'https://drive.google.com/file/d/{self.drive_id}/view'

    @property
    def url(self) -> str:
        """Where ``mim download`` gets the file (str): what metafiles have as ``Weights``.

        ``confirm=t`` answers the page that Google shows before large files. Servers do not see what follows
        ``#``; mim takes the name of the file from there. For mmengine it means the same as the name.
        """
        return f'{DRIVE}?id={self.drive_id}&export=download&confirm=t#/{self.file_name}'


TABLE = json.loads(Path(__file__).with_name('weights.json').read_text(encoding='utf-8'))
WEIGHTS = tuple(Weights(**entry) for entry in TABLE)
BY_NAME = {weights.name: weights for weights in WEIGHTS}
BY_URL = {weights.url: weights for weights in WEIGHTS}
BY_CONFIG = {weights.config: weights for weights in WEIGHTS}


def weights_of(name: str) -> Weights:
    """The entry of a name (Weights).

    Args:
        name (str): As ``'b1'``, in any case, or of the config that the weights are for; with
            ``mobilemamba://`` in front or not. Or an address of our metafiles.

    Raises:
        ValueError: If there is none; the message has those that there are.
    """
    if name in BY_URL:
        return BY_URL[name]
    short = name.removeprefix(SCHEME)
    plain = short.lower()
    for table in (BY_NAME, BY_CONFIG):
        if plain.removesuffix('.py') in table:
            return table[plain.removesuffix('.py')]
    # As files and timm's models are called.
    plain = re.sub(r'^mobilemamba[_-]|\.pth$', '', plain).replace('_', '-').replace('distilled', 'kd')
    close = [plain] if plain in BY_NAME else get_close_matches(plain, BY_NAME, n=1)
    raise ValueError(
        f'There are no published weights named {short!r}{f"; {close[0]!r} is close" if close else ""}. The '
        f'names are {", ".join(BY_NAME)}.'
    )
