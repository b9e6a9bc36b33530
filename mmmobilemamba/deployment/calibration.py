"""Images of a folder, to calibrate a file of 8 bits and to compare it with what it is from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from .build import DeploymentError


def find_images(folder: str | Path, suffixes: Sequence[str], count: int) -> tuple[list[Path], list[Path]]:
    """``count`` images spread evenly over a folder (list[Path]): those that can be read, and the others.

    Folders in it are searched as well. The order is that of the paths, so that with a folder for each class
    all classes occur.

    Args:
        folder (Path): Where they are.
        suffixes (Sequence[str]): What their names end in, in lower case.
        count (int): How many, if there are so many.

    Raises:
        DeploymentError: If there is none that can be read.
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
    """Whether an image is one (bool)."""
    try:
        with Image.open(path) as file:
            file.load()
    except Exception:  # of many kinds, by the format
        return False
    return True


class Images:
    """Images as batches of one that a network takes, read anew each time.

    Args:
        paths (Sequence[Path]): Of the images.
        prepare (Callable): From a picture (PIL.Image) to a batch, float32 (1, 3, H, W) or uint8 (1, H, W, 3).
    """

    def __init__(self, paths, prepare):
        self.paths, self.prepare = paths, prepare

    def __len__(self):
        return len(self.paths)

    def __iter__(self):
        for path in self.paths:
            with Image.open(path) as file:
                yield self.prepare(file)
