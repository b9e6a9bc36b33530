"""MNN: one file, NAME.mnn, converted from an ONNX model.

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

# The entry point of `mnnconvert` without its first step, which installs a telemetry package whose
# dependencies replace protobuf by a version incompatible with onnx (MNN 3.6.1).
CONVERTER = 'import sys, _tools; _tools.mnnconvert(sys.argv)'
OPTIONS: dict[str, list[str]] = dict(float32=[], float16=['--fp16'], int8=['--weightQuantBits', '8'])


class Mnn(Target):
    """MNN, converted via ONNX. int8 covers weights only."""

    name, suffix = 'MNN', '.mnn'
    modules = ('MNN', 'onnx', 'onnxscript')
    pins = ('MNN==3.6.1', 'onnx', 'onnxscript')
    precisions = ('float16', 'int8')
    softplus = 'log'  # MNN's own operator clamps its input to 88 (MNN 3.6.1)

    def convert(
        self, form: nn.Module, image: Tensor, path: Path, precision: str, batches: Iterable[np.ndarray]
    ) -> None:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, 'network.onnx')
            write_onnx(form, image, source)
            files = ['--modelFile', str(source), '--MNNModel', str(path.absolute())]
            # The converter leaves a file in its working directory if it fails.
            command = [sys.executable, '-c', CONVERTER, '-f', 'ONNX', *files, *OPTIONS[precision]]
            said = call(command, cwd=folder)
        if 'not support' in said.lower() or not path.is_file():
            raise DeploymentError(f'mnnconvert has no form for a part of the network:\n{said.strip()}')
