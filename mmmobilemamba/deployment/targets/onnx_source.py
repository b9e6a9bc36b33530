"""Writes ONNX files for converters to other formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch
from onnxscript import opset18 as op
from torch import Tensor, nn

from ...utils.garbage import frozen_heap
from ...utils.quiet import quietly
from ..errors import refusing
from ..onnx_file import OPSET


def write_onnx(form: nn.Module, image: Tensor, path: Path, any_batch: bool = False) -> None:
    """Write a portable network to an ONNX file, with Softplus as a single node.

    PyTorch's exporter adds a comparison for large values, which the operators of runtimes handle themselves.

    Args:
        form (nn.Module): A network from :func:`~..portable.portable`. Its input is named ``image``, its
            outputs ``out0``, ``out1``, ...
        image (Tensor): Its input, in a batch of 2 if ``any_batch``.
        path (Path): The output file.
        any_batch (bool): Whether the batch size is dynamic. Defaults to False.

    Raises:
        DeploymentError: If PyTorch cannot export the network.
    """
    free = ({0: torch.export.Dim.DYNAMIC},) if any_batch else None
    with torch.no_grad():
        count = len(form(image))
    torch.compiler.reset()  # see onnx_file.to_program
    with refusing(), quietly(), frozen_heap(), torch.no_grad():
        program = torch.export.export(form, (image,), dynamic_shapes=free, strict=False)
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=['image'],
            output_names=[f'out{index}' for index in range(count)],
            custom_translation_table={torch.ops.aten.softplus.default: softplus},
            verbose=False,
        )
    proto = exported.model_proto
    del proto.graph.value_info[:]
    onnx.save(proto, str(path))


def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """ONNX's Softplus; ``beta`` and ``threshold`` of PyTorch's operator are ignored."""
    return op.Softplus(x)
