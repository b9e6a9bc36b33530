"""OpenVINO: the layers in NAME.xml and the weights in NAME.bin.

Source: https://docs.openvino.ai/2026/openvino-workflow/model-preparation.html
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from .onnx_source import write_onnx
from .target import Target, about_of

QUANTISED = ('Convolution',)  # GroupConvolution has one scale for all channels: errors of half the range


class OpenVino(Target):
    """OpenVINO, converted via ONNX; quantised to int8 by NNCF."""

    name, suffix = 'OpenVINO', '.xml'
    modules = ('openvino', 'onnx', 'onnxscript')
    pins = ('openvino==2026.4.1', 'nncf==3.4.0', 'onnx', 'onnxscript')
    any_batch = True
    precisions = ('float16', 'int8')
    extras = dict(int8=('nncf',))

    def convert(
        self, form: nn.Module, image: Tensor, path: Path, precision: str, batches: Iterable[np.ndarray]
    ) -> None:
        openvino = import_module('openvino')
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, 'network.onnx')
            write_onnx(form, image, source, any_batch=True)
            model = openvino.convert_model(source)
            if precision == 'int8':
                model = to_int8(model, batches)
            openvino.save_model(model, path, compress_to_fp16=precision == 'float16')

    def parts(self, path: Path) -> list[Path]:
        """Return the paths of the layers, the weights and the metadata."""
        return [path, path.with_suffix('.bin'), about_of(path)]


def to_int8(model: Any, batches: Iterable[np.ndarray]) -> Any:
    """Quantise only the ungrouped convolutions of a model to int8 (openvino.Model).

    Args:
        model (openvino.Model): The float32 model.
        batches (Iterable[ndarray]): Inputs of the model, for the calibration.
    """
    nncf = import_module('nncf')
    kinds = sorted({node.get_type_name() for node in model.get_ops()} - set(QUANTISED))
    data = nncf.Dataset(list(batches))
    scope = nncf.IgnoredScope(types=kinds, validate=False)
    return nncf.quantize(model, data, ignored_scope=scope, subset_size=len(list(data.get_data())))
