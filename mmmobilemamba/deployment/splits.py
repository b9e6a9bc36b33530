"""Limits the number of outputs of ``Split`` nodes, for WebGPU.

A WebGPU kernel uses one storage buffer for its input and one for each output, and only 8 buffers are
guaranteed: https://www.w3.org/TR/webgpu/#limits (``maxStorageBuffersPerShaderStage``). ONNX Runtime groups
the inputs of a ``Concat``, but not the outputs of a ``Split``:
https://github.com/microsoft/onnxruntime/pull/25390
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import helper

MOST_OUTPUTS = 7  # of 8 buffers; one is for the input


def narrow_splits(proto: onnx.ModelProto) -> None:
    """Replace every ``Split`` of more than 7 outputs by a tree of smaller ones, in place.

    Splits whose output sizes are unknown are not changed.

    Args:
        proto (onnx.ModelProto): A model with ``value_info``, from which the sizes are read.
    """
    shapes = {
        info.name: info.type.tensor_type.shape.dim for info in (*proto.graph.value_info, *proto.graph.output)
    }
    nodes = []
    for node in proto.graph.node:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == 'axis'), 0)
        dims = [shapes.get(name, ()) for name in node.output] if node.op_type == 'Split' else []
        known = all(len(shape) > axis and shape[axis].HasField('dim_value') for shape in dims)
        if len(dims) <= MOST_OUTPUTS or not known:
            nodes.append(node)
            continue
        sizes = [shape[axis].dim_value for shape in dims]
        nodes += _tree(proto.graph, node.input[0], list(node.output), sizes, axis)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _tree(
    graph: onnx.GraphProto, source: str, outputs: list[str], sizes: list[int], axis: int
) -> Iterator[onnx.NodeProto]:
    """Yield nodes that split ``source`` into ``outputs``, and add their sizes to ``graph.initializer``."""
    count = len(outputs)
    if count <= MOST_OUTPUTS:
        constant = helper.make_tensor(
            f'{source}_to_{outputs[0]}_sizes', onnx.TensorProto.INT64, [count], sizes
        )
        graph.initializer.append(constant)
        yield helper.make_node(
            'Split', [source, constant.name], outputs, name=f'{outputs[0]}_split', axis=axis
        )
        return
    step = -(-count // min(MOST_OUTPUTS, -(-count // MOST_OUTPUTS)))
    parts = {}
    for start in range(0, count, step):
        names = outputs[start : start + step]
        parts[names[0] if len(names) == 1 else f'{names[0]}_to_{names[-1]}'] = (
            names,
            sizes[start : start + step],
        )
    yield from _tree(graph, source, list(parts), [sum(part) for _, part in parts.values()], axis)
    for whole, (names, part) in parts.items():
        if len(names) > 1:
            yield from _tree(graph, whole, names, part, axis)
