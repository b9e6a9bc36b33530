"""Images to look into networks with: RGB or gray, from 0 to 1, all of one size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..deployment.calibration import can_be_read, find_images
from ..deployment.errors import DeploymentError
from .errors import AnalysisError

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
MODES = {1: 'L', 3: 'RGB'}  # of Pillow, by channels


def find_pictures(paths: Sequence[str | Path], number: int) -> list[Path]:
    """Up to ``number`` pictures among files and folders, spread evenly over each folder (list[Path]).

    Raises:
        AnalysisError: If a path does not exist or cannot be read, or a folder has no pictures.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            try:
                readable, broken = find_images(path, SUFFIXES, number)
            except DeploymentError as error:
                raise AnalysisError(str(error)) from error
            if broken:
                raise AnalysisError(f'{broken[0]} is a picture that cannot be read: mend or remove it.')
            found += readable
        elif not path.is_file():
            raise AnalysisError(f'There is no picture and no folder {path}.')
        elif not can_be_read(path):
            raise AnalysisError(f'{path} is no picture that can be read.')
        else:
            found.append(path)
    return found[:number]


def read_picture(path: str | Path, size: tuple[int, int], channels: int = 3) -> Tensor:
    """A picture as a batch of one, (1, channels, height, width), from 0 to 1.

    It is turned upright, cut to the proportions of ``size`` around its centre, and resized.

    Args:
        path (str | Path): Of the file.
        size (tuple[int, int]): Height and width in px.
        channels (int): 3 for RGB, 1 for gray. Defaults to 3.

    Raises:
        AnalysisError: If pictures have no such number of channels.
    """
    if channels not in MODES:
        raise AnalysisError(
            f'Pictures have 1 or 3 channels, and the network takes {channels}: leave them out, for random '
            f'images.'
        )
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file).convert(MODES[channels])
    picture = ImageOps.fit(picture, size[::-1], Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(picture)).view(1, *size, channels)
    return pixels.permute(0, 3, 1, 2).float() / 255


def random_image(size: tuple[int, int], channels: int = 3, seed: int = 0) -> Tensor:
    """White noise, (1, channels, height, width), each value drawn evenly from 0 to 1."""
    return torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(seed))
