"""Reads images from a folder, to calibrate an int8 file and to compare it with its float32 source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from .build import DeploymentError


def find_images(folder: str | Path, suffixes: Sequence[str], count: int) -> tuple[list[Path], list[Path]]:
    """Pick ``count`` images at even intervals from the sorted paths below a folder.

    With one subfolder per class, the images cover all classes.

    Args:
        folder (str | Path): The folder, searched recursively.
        suffixes (Sequence[str]): File extensions, in lower case.
        count (int): Number of images; all of them if the folder has fewer.

    Returns:
        tuple[list[Path], list[Path]]: The readable images, and the chosen ones that could not be read.

    Raises:
        DeploymentError: If the folder does not exist or has no readable image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DeploymentError(f'There is no folder {folder}; it must have images for the calibration.')
    paths = sorted(path for path in folder.rglob('*') if path.suffix.lower() in suffixes and path.is_file())
    if not paths:
        raise DeploymentError(
            f'The folder {folder} has no images, nor have the folders in it; they must end in '
            f'{", ".join(suffixes)}.'
        )
    count = min(count, len(paths))
    chosen = [paths[index * len(paths) // count] for index in range(count)]
    readable = [path for path in chosen if can_be_read(path)]
    if not readable:
        raise DeploymentError(f'None of {count} images of {folder} can be read, such as {chosen[0]}.')
    return readable, [path for path in chosen if path not in readable]


def can_be_read(path: Path) -> bool:
    """Whether Pillow can decode a file (bool)."""
    try:
        with Image.open(path) as file:
            file.load()
    except Exception:  # the type depends on the image format
        return False
    return True


class Images:
    """Iterates over images as network inputs of batch size 1; each iteration reads the files again.

    Args:
        paths (Sequence[Path]): Paths of the images.
        prepare (Callable): Converts a PIL.Image to a batch, float32 (1, 3, H, W) or uint8 (1, H, W, 3).
    """

    def __init__(self, paths, prepare):
        self.paths, self.prepare = paths, prepare

    def __len__(self):
        return len(self.paths)

    def __iter__(self):
        for path in self.paths:
            with Image.open(path) as file:
                yield self.prepare(file)
