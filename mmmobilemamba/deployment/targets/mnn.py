"""MNN: one file, of an ONNX model.

Source: https://mnn-docs.readthedocs.io/en/latest/tools/convert.html
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from ..errors import DeploymentError
from .onnx_source import write_onnx
from .target import Target, call

# What `mnnconvert` runs, without what it does before: it installs a package that reports each use to MNN's
# makers, whose dependencies replace protobuf by a version that onnx does not work with (MNN 3.6.1).
CONVERTER = 'import sys, _tools; _tools.mnnconvert(sys.argv)'
OPTIONS: dict[str, list[str]] = dict(float32=[], float16=['--fp16'], int8=['--weightQuantBits', '8'])


class Mnn(Target):
    """MNN, by ONNX; in 8 bits it has the weights, not the maps."""

    name, suffix = 'MNN', '.mnn'
    modules = ('MNN', 'onnx', 'onnxscript')
    pins = ('MNN==3.6.1', 'onnx', 'onnxscript')
    precisions = ('float16', 'int8')
    softplus = 'log'  # its own takes what is above 88 for 88 (MNN 3.6.1)

    def convert(
        self, form: nn.Module, image: Tensor, path: Path, precision: str, batches: Iterable[np.ndarray]
    ) -> None:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, 'network.onnx')
            write_onnx(form, image, source)
            files = ['--modelFile', str(source), '--MNNModel', str(path.absolute())]
            # Where it runs it keeps a file of its own, which stays if it fails.
            command = [sys.executable, '-c', CONVERTER, '-f', 'ONNX', *files, *OPTIONS[precision]]
            said = call(command, cwd=folder)
        if 'not support' in said.lower() or not path.is_file():
            raise DeploymentError(f'mnnconvert has no form for a part of the network:\n{said.strip()}')
