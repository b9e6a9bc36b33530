"""Input images for the analyses: RGB or gray, from 0 to 1, all of one size."""

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
MODES = {1: 'L', 3: 'RGB'}  # Pillow's modes by number of channels


def find_pictures(paths: Sequence[str | Path], number: int) -> list[Path]:
    """Find up to ``number`` images in files and folders, at even intervals in each folder (list[Path]).

    Raises:
        AnalysisError: If a path does not exist or cannot be read, or a folder has no images.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            try:
                readable, broken = find_images(path, SUFFIXES, number)
            except DeploymentError as error:
                raise AnalysisError(str(error)) from error
            if broken:
                raise AnalysisError(f'{broken[0]} is a picture that cannot be read: repair or remove it.')
            found += readable
        elif not path.is_file():
            raise AnalysisError(f'There is no picture or folder {path}.')
        elif not can_be_read(path):
            raise AnalysisError(f'{path} is not a readable picture.')
        else:
            found.append(path)
    return found[:number]


def read_picture(path: str | Path, size: tuple[int, int], channels: int = 3) -> Tensor:
    """Read an image as a batch of one, (1, channels, height, width), from 0 to 1.

    The EXIF orientation is applied; then the image is centre-cropped to the aspect ratio of ``size`` and
    resized.

    Args:
        path (str | Path): The image file.
        size (tuple[int, int]): Height and width in px.
        channels (int): 3 for RGB, 1 for gray. Defaults to 3.

    Raises:
        AnalysisError: If ``channels`` is neither 1 nor 3.
    """
    if channels not in MODES:
        raise AnalysisError(
            f'Pictures have 1 or 3 channels, but the network takes {channels}: omit --images to use random '
            f'images.'
        )
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file).convert(MODES[channels])
    picture = ImageOps.fit(picture, size[::-1], Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(picture)).view(1, *size, channels)
    return pixels.permute(0, 3, 1, 2).float() / 255


def random_image(size: tuple[int, int], channels: int = 3, seed: int = 0) -> Tensor:
    """Return uniform noise from 0 to 1, (1, channels, height, width).

    Args:
        size (tuple[int, int]): Height and width in px.
        channels (int): Number of channels. Defaults to 3.
        seed (int): Random seed. Defaults to 0.
    """
    return torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(seed))
