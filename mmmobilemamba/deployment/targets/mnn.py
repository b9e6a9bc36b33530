"""MNN: one file, of an ONNX model.

Source: https://mnn-docs.readthedocs.io/en/latest/tools/convert.html
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from ..errors import DeploymentError
from .onnx_source import write_onnx
from .target import Target, call

OPTIONS: dict[str, list[str]] = dict(float32=[], float16=['--fp16'], int8=['--weightQuantBits', '8'])


class Mnn(Target):
    """MNN, by ONNX; in 8 bits it has the weights, not the maps."""

    name, suffix = 'MNN', '.mnn'
    modules, requirements = ('MNN', 'onnx', 'onnxscript'), 'requirements/deploy-mnn.txt'
    precisions = ('float16', 'int8')

    def convert(
        self, form: nn.Module, image: Tensor, path: Path, precision: str, batches: Iterable[np.ndarray]
    ) -> None:
        program = shutil.which('mnnconvert', path=str(Path(sys.executable).parent)) or shutil.which(
            'mnnconvert'
        )
        if program is None:
            raise DeploymentError(f'There is no mnnconvert beside {sys.executable}: install MNN again.')
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, 'network.onnx')
            write_onnx(form, image, source)
            files = ['--modelFile', str(source), '--MNNModel', str(path)]
            said = call([program, '-f', 'ONNX', *files, *OPTIONS[precision]])
        if 'not support' in said.lower() or not path.is_file():
            raise DeploymentError(f'mnnconvert has no form for a part of the network:\n{said.strip()}')
