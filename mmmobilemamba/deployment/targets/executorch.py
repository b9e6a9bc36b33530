"""ExecuTorch with XNNPACK: one file, NAME.pte, converted from a program of ``torch.export``.

Source: https://docs.pytorch.org/executorch/stable/using-executorch-export.html
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .program import to_program
from .target import Target, call


class ExecuTorch(Target):
    """ExecuTorch. int8 covers convolutions only."""

    name, suffix = 'ExecuTorch', '.pte'
    modules = ('executorch', 'torchao')
    pins = ('executorch==1.3.1', 'torchao==0.18.0')
    precisions = ('int8',)

    def convert(
        self, form: nn.Module, image: Tensor, path: Path, precision: str, batches: Iterable[np.ndarray]
    ) -> None:
        # A separate process, because the converter searches the PATH for its program flatc.
        package = Path(str(import_module('executorch.version').__file__)).parent
        folders = [
            str(package / 'data' / 'bin'),
            str(Path(sys.executable).parent),
            os.environ.get('PATH', ''),
        ]
        environment = {**os.environ, 'PATH': os.pathsep.join(folders)}
        with tempfile.TemporaryDirectory() as folder:
            source, images = Path(folder, 'network.pt2'), Path(folder, 'images.npz')
            torch.export.save(to_program(form, image), source)
            if precision == 'int8':
                np.savez(images, *batches)
            script = Path(__file__).with_name('scripts') / 'to_executorch.py'
            calibration = [images] if precision == 'int8' else []
            call([sys.executable, script, source, path.absolute(), *calibration], env=environment)
