"""LiteRT, which was TensorFlow Lite: one file, of a program of ``torch.export``.

Its converter needs versions of packages that OpenMMLab does not work with: it has an environment of its own.
Source: https://github.com/google-ai-edge/litert-torch
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
SIZE = '1 GB'  # without PyTorch, which it shares


class LiteRt(Target):
    """LiteRT; in reduced precision the weights of convolutions are, and all is computed in float32."""

    name, suffix = 'LiteRT', '.tflite'
    modules = ('ai_edge_litert',)
    pins = ('ai-edge-litert==2.3.0',)
    precisions = ('float16', 'int8')

    def check(self, graph: nn.Module, size: tuple[int, int]) -> None:
        """Make the environment of the converter, if it is not there, before there is work to lose."""
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
