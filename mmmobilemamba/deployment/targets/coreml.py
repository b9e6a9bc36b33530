"""Core ML: one folder, NAME.mlpackage, converted from a program of ``torch.export``.

Core ML only runs on Apple's systems. On other systems, :mod:`.mil` executes the operators of the file to
verify it. Source: https://apple.github.io/coremltools/docs-guides/source/convert-pytorch.html
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from contextlib import redirect_stderr
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from ...utils.quiet import quietly
from ..errors import refusing
from ..graphs import graph_of
from .program import to_program
from .target import Target

# Operators computed in float16 if requested. The scan, its step sizes and norm layers stay in float32.
HALF = ('conv', 'conv_transpose', 'relu', 'pad', 'pixel_shuffle', 'max_pool', 'avg_pool')


class CoreMl(Target):
    """Core ML. float16 covers convolutions and adjacent operators; int8 only the weights of convolutions."""

    name, suffix = 'Core ML', '.mlpackage'
    modules = ('coremltools',)
    pins = ('coremltools==9.0',)
    runs_here = sys.platform == 'darwin'
    takes_pixels = False  # Core ML arrays are float16, float32 or int32
    precisions = ('float16', 'int8')

    def convert(
        self, form: nn.Module, image: Tensor, path: Path, precision: str, batches: Iterable[np.ndarray]
    ) -> None:
        program = to_program(form, image, exact_resize=True)
        # Its progress bars ignore logging levels.
        with redirect_stderr(io.StringIO()), quietly(), refusing('hand it to coremltools'):
            tools = import_module('coremltools')
            half = tools.transform.FP16ComputePrecision(op_selector=lambda op: op.op_type in HALF)
            model = tools.convert(
                program,
                outputs=[tools.TensorType(name=name) for name in graph_of(form).output_names],
                convert_to='mlprogram',
                compute_precision=half if precision == 'float16' else tools.precision.FLOAT32,
                minimum_deployment_target=tools.target.iOS16,
                skip_model_load=True,
            )
            if precision == 'int8':
                model = to_int8(model)
            model.save(str(path))

    def prove_session(self, path: Path) -> Any:
        """Return an emulation of Core ML with the session interface (MilProgram); None on a Mac."""
        if sys.platform == 'darwin':
            return None
        with quietly():
            return import_module('.mil', __package__).MilProgram(path)


def to_int8(model: Any) -> Any:
    """Store the weights of convolutions in 8 bits; the computation stays in float32.

    Args:
        model (coremltools.models.MLModel): The float32 model.
    """
    optimise = import_module('coremltools.optimize.coreml')
    weights = optimise.OpLinearQuantizerConfig(mode='linear_symmetric')
    config = optimise.OptimizationConfig(op_type_configs=dict(conv=weights, conv_transpose=weights))
    return optimise.linear_quantize_weights(model, config)
