"""What all runtimes have in common that a network is converted for."""

from __future__ import annotations

import json
import shutil
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

        That is ``about``, with the names of the ``outputs`` in order and their ``shapes`` without the batch.

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
        about = dict(about, outputs=graph_of(graph).output_names, shapes=shapes)
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

    def move(self, path: Path, target: Path) -> None:
        """Put the files at ``path`` in place of those at ``target``."""
        self.remove(target)
        for part, place in zip(self.parts(path), self.parts(target)):
            part.replace(place)

    def remove(self, path: Path) -> None:
        """Remove the files at ``path``, as far as they are there."""
        for part in self.parts(path):
            if part.is_dir():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)

    def size(self, path: Path) -> int:
        """Bytes that the files at ``path`` have."""
        files = [each for part in self.parts(path) for each in (part, *part.rglob('*'))]
        return sum(each.stat().st_size for each in files if each.is_file())


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
