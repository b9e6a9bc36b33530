"""LiteRT, formerly TensorFlow Lite: one file, NAME.tflite, converted from a program of ``torch.export``.

Its converter requires package versions that are incompatible with OpenMMLab, so it runs in a separate
environment. Source: https://github.com/google-ai-edge/litert-torch
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .environment import environment
from .program import to_program
from .target import Target, call

PINS = ('litert-torch==0.10.0', 'ai-edge-quantizer==0.10.0', 'ai-edge-litert==2.3.0')
SIZE = '1 GB'  # without PyTorch, which it inherits


class LiteRt(Target):
    """LiteRT. float16 and int8 cover the weights of convolutions; the computation stays in float32."""

    name, suffix = 'LiteRT', '.tflite'
    modules = ('ai_edge_litert',)
    pins = ('ai-edge-litert==2.3.0',)
    precisions = ('float16', 'int8')

    def check(self, graph: nn.Module, size: tuple[int, int]) -> None:
        """Create the environment of the converter if necessary, before any work could be lost."""
        environment('litert', PINS, SIZE)

    def convert(
        self, form: nn.Module, image: Tensor, path: Path, precision: str, batches: Iterable[np.ndarray]
    ) -> None:
        python = environment('litert', PINS, SIZE)
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, 'network.pt2')
            torch.export.save(to_program(form, image, exact_resize=True), source)
            script = Path(__file__).with_name('scripts') / 'to_litert.py'
            call([python, script, source, path.absolute(), precision])
