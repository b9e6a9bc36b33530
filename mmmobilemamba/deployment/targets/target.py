"""What all runtimes have in common that a network is converted for."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import DeploymentError, quietly, refusing
from ..graphs import graph_of
from ..portable import portable

LINES = 12  # of what a converter says, in a message
ABOUT = '.json'  # behind a file's name: what its users have to know


class Target:
    """A runtime, and how a network becomes a file for it.

    Attributes:
        name (str): As its makers write it.
        suffix (str): What OUT ends in.
        modules (tuple[str, ...]): What must be importable for :meth:`convert`.
        pins (tuple[str, ...]): What has to be installed for that, as pip takes it.
        runs_here (bool): Whether the runtime exists for this machine's system.
        any_batch (bool): Whether files take any number of images; else one.
        takes_pixels (bool): Whether an input can be uint8, (N, H, W, C); else it is float32, (N, C, H, W).
        segmentation (tuple[str, ...]): Outputs of a segmentor unless told otherwise.
        precisions (tuple[str, ...]): Beside float32.
        softplus (str): See :func:`~..portable.portable`.
        extras (dict[str, tuple[str, ...]]): Packages that a precision needs as well.
    """

    name: str
    suffix: str
    modules: tuple[str, ...]
    pins: tuple[str, ...]
    runs_here = True
    any_batch = False
    takes_pixels = True
    segmentation: tuple[str, ...] = ('classes',)
    precisions: tuple[str, ...] = ()
    softplus = 'operator'
    extras: dict[str, tuple[str, ...]] = {}

    def why_not(self, precision: str = 'float32') -> str | None:
        """What is missing for a precision, with the command that installs it (str), or None."""
        modules = (*self.modules, *self.extras.get(precision, ()))
        missing = [name for name in modules if find_spec(name) is None]
        if not missing:
            return None
        return f'For {self.name} it needs {", ".join(missing)}: python -m pip install {" ".join(self.pins)}'

    def check(self, graph: nn.Module, size: tuple[int, int]) -> None:
        """Make sure that a network can be converted.

        Args:
            graph (nn.Module): Of :mod:`..raw_graphs`.
            size (tuple[int, int]): Height and width of its images.

        Raises:
            DeploymentError: If it is known that it cannot.
        """

    def write(
        self,
        graph: nn.Module,
        image: Tensor,
        path: Path,
        about: Mapping[str, Any],
        batches: Iterable[np.ndarray] = (),
    ) -> None:
        """Write the files of a network: those of the runtime, and what is to be known beside them.

        That is ``about``, with the names of the ``outputs`` in order, their ``shapes`` without the batch, and
        the ``sha256`` of each file of the runtime.

        Args:
            graph (nn.Module): Of :mod:`..raw_graphs`, deployed.
            image (Tensor): A batch of 2 of the images that it takes.
            path (Path): Where to.
            about (dict): See :func:`~..build.describe`; with its ``precision`` and ``input``.
            batches (Iterable[ndarray]): For int8, images as the network takes them, one a batch.

        Raises:
            DeploymentError: If it cannot be converted.
        """
        if not self.any_batch:
            image = image[:1]
        with refusing(f'convert it for {self.name}'), quietly(), torch.no_grad():
            form = portable(graph, image, self.softplus)
            shapes = [list(output.shape[1:]) for output in form(image)]
            self.convert(form, image, path, about['precision'], batches)
        hashes = [sha256_of(part) for part in self.parts(path)[:-1]]
        about = dict(about, outputs=graph_of(graph).output_names, shapes=shapes, sha256=hashes)
        about_of(path).write_text(json.dumps(about, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')

    def convert(
        self, form: nn.Module, image: Tensor, path: Path, precision: str, batches: Iterable[np.ndarray]
    ) -> None:
        """Write the files of the runtime.

        Args:
            form (nn.Module): Of :func:`~..portable.portable`: its outputs are a tuple of tensors.
            image (Tensor): What it takes.
            path (Path): Ends in :attr:`suffix`.
            precision (str): ``'float32'`` or one of :attr:`precisions`.
            batches (Iterable[ndarray]): See :meth:`write`.

        Raises:
            DeploymentError: If it cannot be converted.
        """
        raise NotImplementedError

    def prove_session(self, path: Path) -> Any:
        """What runs files in place of the runtime, which does not exist on this system; else None."""
        return None

    def parts(self, path: Path) -> list[Path]:
        """All files, or folders, of a network at ``path``."""
        return [path, about_of(path)]

    def check_place(self, path: Path) -> None:
        """Make sure that nothing else than files of a network is at ``path``.

        Raises:
            DeploymentError: If a folder is there, or a file that another program has put there.
        """
        first = self.parts(path)[0]
        for part in self.parts(path):
            package = part.suffix == '.mlpackage' and (part / 'Manifest.json').is_file()
            if part.is_dir() and not package:
                raise DeploymentError(f'{part} is a folder: choose another OUT.')
            if part.exists() and not first.exists():
                raise DeploymentError(
                    f'{part} would be replaced, and belongs to something else, as there is no {first.name}: '
                    f'choose another OUT, or move it.'
                )

    def move(self, path: Path, target: Path) -> None:
        """Put the files at ``path`` in place of those at ``target``, each in one step."""
        for part, place in zip(self.parts(path), self.parts(target)):
            if place.is_dir():  # which no other can replace
                place.rename(path.with_name(f'{path.name}.old'))
            part.replace(place)

    def size(self, path: Path) -> int:
        """Bytes that the files at ``path`` have."""
        files = [each for part in self.parts(path) for each in (part, *part.rglob('*'))]
        return sum(each.stat().st_size for each in files if each.is_file())


def sha256_of(path: Path) -> str:
    """The sha256 of a file, or of all files in a folder in the order of their names (str)."""
    digest = hashlib.sha256()
    for part in sorted(path.rglob('*')) if path.is_dir() else [path]:
        if part.is_file():
            digest.update(part.read_bytes())
    return digest.hexdigest()


def about_of(path: Path) -> Path:
    """Where what is to be known about a file lies: beside it."""
    return path.with_name(path.name + ABOUT)


def call(command: Sequence[str | Path], **kwargs: Any) -> str:
    """Run a converter; all that it says (str).

    Raises:
        DeploymentError: If it fails, with the last of that.
    """
    done = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs
    )
    if done.returncode:
        last = '\n'.join(done.stdout.strip().splitlines()[-LINES:])
        raise DeploymentError(f'{Path(command[0]).name} failed with status {done.returncode}:\n{last}')
    return done.stdout


def trace(form: nn.Module, image: Tensor) -> torch.jit.ScriptModule:
    """A network as TorchScript, with several outputs or one alone."""
    with torch.no_grad():
        return torch.jit.trace(Plain(form), image, check_trace=False)


class Plain(nn.Module):
    """A network whose only output is a tensor instead of a tuple of one.

    Args:
        network (nn.Module): One that gives a tuple.
    """

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What the network gives."""
        outputs = self.network(image)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)
