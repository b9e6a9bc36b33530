"""ncnn: the layers in NAME.ncnn.param and the weights in NAME.ncnn.bin.

Sources: https://github.com/Tencent/ncnn, and its converter, https://github.com/pnnx/pnnx
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from ..errors import DeploymentError
from .target import Target, about_of, call, trace

REFUSALS = re.compile(r'^.*(?:ignore |not supported|unsupported|failed).*$', re.M)


class Ncnn(Target):
    """ncnn, converted from TorchScript by pnnx."""

    name, suffix = 'ncnn', '.ncnn'
    modules = ('ncnn', 'pnnx')
    pins = ('ncnn==1.0.20261020', 'pnnx==20261020')
    takes_pixels = False  # inputs are float32
    segmentation = ('logits',)  # ncnn's ArgMax reduces the whole map
    precisions = ('float16',)
    softplus = 'log'  # ncnn's own, log(1 + exp(x)), overflows above 88 and flushes small steps as well

    def convert(
        self, form: nn.Module, image: Tensor, path: Path, precision: str, batches: Iterable[np.ndarray]
    ) -> None:
        with tempfile.TemporaryDirectory() as folder:
            trace(form, image).save(str(Path(folder, 'network.pt')))
            said = call(
                [
                    import_module('pnnx').EXEC_PATH,
                    'network.pt',
                    f'inputshape={list(image.shape)}'.replace(' ', ''),
                    f'fp16={int(precision == "float16")}',
                    'ncnnparam=network.param',
                    'ncnnbin=network.bin',
                ],
                cwd=folder,
            )
            refused = REFUSALS.search(said)
            if refused:
                raise DeploymentError(f'pnnx has no form for a part of the network: {refused[0].strip()}')
            for name, place in zip(('network.param', 'network.bin'), self.parts(path)):
                shutil.move(Path(folder, name), place)

    def parts(self, path: Path) -> list[Path]:
        """Return the paths of the layers, the weights and the metadata."""
        return [path.with_name(path.name + '.param'), path.with_name(path.name + '.bin'), about_of(path)]
