"""Files of ONNX for converters to other formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch
from onnxscript import opset18 as op
from torch import Tensor, nn

from ..errors import quietly, refusing
from ..onnx_file import OPSET


def write_onnx(form: nn.Module, image: Tensor, path: Path, any_batch: bool = False) -> None:
    """Write a portable network as a file of ONNX, with the operator Softplus as one node.

    PyTorch's exporter puts a comparison beside it, for large values, of which the operator of a runtime takes
    care itself.

    Args:
        form (nn.Module): Of :func:`~..portable.portable`; its input is named ``image``, its outputs
            ``out0``, ``out1`` ...
        image (Tensor): What it takes, in a batch of 2 if any number is to be taken.
        path (Path): Where to.
        any_batch (bool): Whether the batch is free. Defaults to False.

    Raises:
        DeploymentError: If PyTorch cannot export it.
    """
    free = ({0: torch.export.Dim.DYNAMIC},) if any_batch else None
    with torch.no_grad():
        count = len(form(image))
    torch.compiler.reset()  # see onnx_file.to_program
    with refusing(), quietly(), torch.no_grad():
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
    """Softplus of ONNX."""
    return op.Softplus(x)
