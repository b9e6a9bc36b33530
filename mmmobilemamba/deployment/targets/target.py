"""Base class of the runtimes that a network can be converted for."""

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

from ...utils.quiet import quietly
from ..errors import DeploymentError, refusing
from ..graphs import graph_of
from ..portable import portable

LINES = 12  # last lines of a converter's output in an error message
ABOUT = '.json'  # appended to a file's name for its metadata


class Target:
    """A runtime and its converter.

    Attributes:
        name (str): Name of the runtime, in its official spelling.
        suffix (str): File extension of the output.
        modules (tuple[str, ...]): Modules required by :meth:`convert`.
        pins (tuple[str, ...]): Requirements for pip that provide them.
        runs_here (bool): Whether the runtime supports this operating system.
        any_batch (bool): Whether the batch size is dynamic; otherwise it is 1.
        takes_pixels (bool): Whether inputs can be uint8, (N, H, W, C); otherwise float32, (N, C, H, W).
        segmentation (tuple[str, ...]): Default outputs of a segmentor.
        precisions (tuple[str, ...]): Precisions in addition to float32.
        softplus (str): See :func:`~..portable.portable`.
        extras (dict[str, tuple[str, ...]]): Additional modules required by a precision.
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
        """Return a message with the missing modules and the command that installs them (str), or None.

        Args:
            precision (str): ``'float32'`` or one of :attr:`precisions`. Defaults to ``'float32'``.
        """
        modules = (*self.modules, *self.extras.get(precision, ()))
        missing = [name for name in modules if find_spec(name) is None]
        if not missing:
            return None
        return f'For {self.name} it needs {", ".join(missing)}: python -m pip install {" ".join(self.pins)}'

    def check(self, graph: nn.Module, size: tuple[int, int]) -> None:
        """Check that a network can be converted.

        Args:
            graph (nn.Module): A graph of :mod:`..raw_graphs`.
            size (tuple[int, int]): Height and width of its images in px.

        Raises:
            DeploymentError: If it cannot be converted for a known reason.
        """

    def write(
        self,
        graph: nn.Module,
        image: Tensor,
        path: Path,
        about: Mapping[str, Any],
        batches: Iterable[np.ndarray] = (),
    ) -> None:
        """Convert a network and write the files of the runtime and a metadata file.

        The metadata are ``about``, the names of the ``outputs`` in order, their ``shapes`` without the batch,
        and the ``sha256`` of each file of the runtime.

        Args:
            graph (nn.Module): A graph of :mod:`..raw_graphs`, deployed.
            image (Tensor): Its input, in a batch of 2.
            path (Path): The output path, ending in :attr:`suffix`.
            about (dict): The metadata, see :func:`~..build.describe`, with ``precision`` and ``input``.
            batches (Iterable[ndarray]): For int8, calibration inputs of batch size 1.

        Raises:
            DeploymentError: If the network cannot be converted.
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
        """Write the files of the runtime; implemented by each of them.

        Args:
            form (nn.Module): A network from :func:`~..portable.portable`; returns a tuple of tensors.
            image (Tensor): Its input.
            path (Path): The output path, ending in :attr:`suffix`.
            precision (str): ``'float32'`` or one of :attr:`precisions`.
            batches (Iterable[ndarray]): See :meth:`write`.

        Raises:
            DeploymentError: If the network cannot be converted.
        """
        raise NotImplementedError

    def prove_session(self, path: Path) -> Any:
        """Return a session that emulates the runtime if it does not support this system, otherwise None."""
        return None

    def parts(self, path: Path) -> list[Path]:
        """Return all files and folders of a network at ``path``; the metadata file is last (list[Path])."""
        return [path, about_of(path)]

    def check_place(self, path: Path) -> None:
        """Check that only files of an earlier export would be overwritten at ``path``.

        Raises:
            DeploymentError: If there is a folder, or a file that does not belong to an export.
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
        """Move the files at ``path`` to ``target``; each replaces the old one atomically."""
        for part, place in zip(self.parts(path), self.parts(target)):
            if place.is_dir():  # a folder cannot be replaced
                place.rename(path.with_name(f'{path.name}.old'))
            part.replace(place)

    def size(self, path: Path) -> int:
        """Return the total size of the files at ``path`` in bytes (int)."""
        files = [each for part in self.parts(path) for each in (part, *part.rglob('*'))]
        return sum(each.stat().st_size for each in files if each.is_file())


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of the files in a folder, sorted by path (str)."""
    digest = hashlib.sha256()
    for part in sorted(path.rglob('*')) if path.is_dir() else [path]:
        if part.is_file():
            digest.update(part.read_bytes())
    return digest.hexdigest()


def about_of(path: Path) -> Path:
    """Return the path of a file's metadata, which is beside it."""
    return path.with_name(path.name + ABOUT)


def call(command: Sequence[str | Path], **kwargs: Any) -> str:
    """Run a converter and return its output (str).

    Args:
        command (Sequence[str | Path]): The command.
        **kwargs: Passed to ``subprocess.run``.

    Raises:
        DeploymentError: If it fails; the message includes the last lines of its output.
    """
    done = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs
    )
    if done.returncode:
        last = '\n'.join(done.stdout.strip().splitlines()[-LINES:])
        raise DeploymentError(f'{Path(command[0]).name} failed with status {done.returncode}:\n{last}')
    return done.stdout


def trace(form: nn.Module, image: Tensor) -> torch.jit.ScriptModule:
    """Trace a network to TorchScript; a single output becomes a tensor instead of a tuple."""
    with torch.no_grad():
        return torch.jit.trace(Plain(form), image, check_trace=False)


class Plain(nn.Module):
    """Unpacks the output of a network if it is a tuple of one tensor.

    Args:
        network (nn.Module): A network that returns a tuple.
    """

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Images -> one output, or a tuple of several."""
        outputs = self.network(image)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)
