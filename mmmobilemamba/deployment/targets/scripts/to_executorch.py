"""Converts a program of ``torch.export`` to ExecuTorch.

    python to_executorch.py IN.pt2 OUT.pte [IMAGES.npz]

If images are given, convolutions are calibrated on them and quantised to int8.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from executorch.exir import to_edge_transform_and_lower
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

aten = torch.ops.aten
RELUS = (aten.relu.default, aten.relu_.default)


def main(source: str, out: str, images: str | None = None) -> None:
    """Convert a file."""
    program = torch.export.load(source)
    if images is not None:
        program = to_int8(program, images)
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    with open(out, 'wb') as file:
        edge.to_executorch().write_to_file(file)


def to_int8(program: torch.export.ExportedProgram, images: str) -> torch.export.ExportedProgram:
    """Quantise the convolutions of a program to int8; everything else, such as the scan, is unchanged."""
    # Not set_global: ExecuTorch 1.3.1 then also quantises every concatenation, among them the scan's and that
    # of the boxes, without asking the filter.
    config = get_symmetric_quantization_config(is_per_channel=True)
    quantizer = XNNPACKQuantizer().set_operator_type(aten.conv2d.default, config)
    quantizer.set_filter_function(can_be_int8)
    network = prepare_pt2e(program.module(), quantizer)
    with np.load(images) as batches, torch.no_grad():
        for name in batches.files:
            network(torch.from_numpy(batches[name]))
    return torch.export.export(convert_pt2e(network), program.example_inputs[0], strict=False)


def can_be_int8(node: torch.fx.Node) -> bool:
    """Whether a node is a quantisable convolution, one of its parameters, or a ReLU after it (bool).

    A convolution must not share its parameters: XNNPACK cannot open a file in which an int8 convolution
    shares a bias with a float32 one, as convolutions of detection heads do across levels.
    """
    if node.op == 'get_attr':
        return len(node.users) == 1
    if node.target in RELUS:
        node = node.args[0]
    return node.target is aten.conv2d.default and all(can_be_int8(own) for own in node.args[1:3] if own)


if __name__ == '__main__':
    main(*sys.argv[1:])
