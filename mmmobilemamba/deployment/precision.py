"""Converts a float32 ONNX file to float16 or int8 with the tools of ONNX Runtime.

Inputs, outputs and :func:`float32_nodes` stay in float32; all operators are standard ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from . import onnx_file

# The scan accumulates small steps over the whole image. Operators that rank scores or compute coordinates
# need more precision than their inputs have. Exp finds the decays of scans without a loop.
CHOICES = ('TopK', 'NonMaxSuppression', 'RoiAlign')
SENSITIVE = ('Scan', 'Exp', *CHOICES)
STATISTICS = ('LayerNormalization', 'InstanceNormalization')  # their sums of squares exceed float16
ENDS = ('Conv', 'ConvTranspose', 'Gemm')  # boundaries of the float32 region around a sensitive node
UPSAMPLING = ('ConvTranspose', 'DepthToSpace')
QUANTISED = ('Conv', 'Relu', 'Add', 'Split', 'Concat')


def float32_nodes(graph: onnx.GraphProto, kinds: Collection[str] = SENSITIVE) -> list[str]:
    """Return the names of the nodes that stay in float32 (list[str]).

    These are the sensitive nodes and everything between them and the nearest convolutions or linear layers:
    for a scan, from the convolution before it to the norm after it; for a detector, everything after the
    outputs of its head.

    Args:
        graph (onnx.GraphProto): The graph; all nodes have names, as the exporter writes them.
        kinds (Collection[str]): Operator types of the sensitive nodes.
    """
    makers = {output: node for node in graph.node for output in node.output}
    users = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    found = {node.name: node for node in graph.node if node.op_type in kinds}

    def spread(next_nodes):
        todo = list(found.values())
        while todo:
            for node in next_nodes(todo.pop()):
                if node.op_type not in ENDS and node.name not in found:
                    found[node.name] = node
                    todo.append(node)

    def behind(node):
        return [] if node.op_type in STATISTICS else [u for name in node.output for u in users.get(name, ())]

    spread(behind)
    spread(lambda node: [makers[name] for name in node.input if name in makers])
    return list(found)


def last_layers(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the layers whose outputs become boxes and scores (list[str])."""
    behind = set(float32_nodes(graph, CHOICES))
    taken = {name for node in graph.node if node.name in behind for name in node.input}
    return [node.name for node in graph.node if node.op_type in ENDS and taken.intersection(node.output)]


def faster_in_float32(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the convolutions that ONNX Runtime runs faster in float32 (list[str]).

    These are the first convolution, which has few channels, and the wavelet branch: grouped convolutions
    followed by a transposed convolution, which ONNX Runtime only has in float32, or by a pixel shuffle.
    """
    makers = {output: node for node in graph.node for output in node.output}
    found = [node.name for node in graph.node if node.op_type == 'Conv'][:1]
    for node in graph.node:
        node = makers.get(node.input[0]) if node.op_type in UPSAMPLING else None
        while node is not None and node.op_type == 'Conv' and groups(node) > 1:
            found.append(node.name)
            node = makers.get(node.input[0])
    return found


def groups(conv: onnx.NodeProto) -> int:
    """Return the number of groups of a convolution (int)."""
    return next((attribute.i for attribute in conv.attribute if attribute.name == 'group'), 1)


def to_float16(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Convert a model to float16, which halves its size (onnx.ModelProto).

    Source: https://onnxruntime.ai/docs/performance/model-optimizations/float16.html

    Args:
        proto (onnx.ModelProto): The float32 model; not modified.

    Raises:
        RuntimeError: If an operator is not of the standard domain.
    """
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    kept = float32_nodes(model.graph)
    operators = [*DEFAULT_OP_BLOCK_LIST, *SENSITIVE, *STATISTICS]
    model = convert_float_to_float16(model, keep_io_types=True, op_block_list=operators, node_block_list=kept)
    drop_round_trips(model.graph)
    return finish(model)


def drop_round_trips(graph: onnx.GraphProto) -> None:
    """Remove the converter's casts to float16 and back between float32 nodes, in place."""
    casts = {node.output[0]: node for node in graph.node if node.op_type == 'Cast'}
    outputs = {output.name for output in graph.output}
    direct = {}
    for name, node in casts.items():
        before = casts.get(node.input[0])
        if before is None or (target(before), target(node)) != (TensorProto.FLOAT16, TensorProto.FLOAT):
            continue
        if not before.name.endswith('_cast_to_fp16_node'):  # the model's own cast, of integers
            node.input[0] = before.input[0]
        elif name in outputs:
            node.CopyFrom(onnx.helper.make_node('Identity', before.input[:1], [name], node.name))
        else:
            direct[name] = before.input[0]
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = direct.get(name, name)
    for node in [casts[name] for name in direct]:
        graph.node.remove(node)
    used = outputs.union(*(node.input for node in graph.node))
    for node in [node for name, node in casts.items() if name not in used and name not in direct]:
        graph.node.remove(node)


def target(cast: onnx.NodeProto) -> int:
    """Return the target type of a Cast node (int, a value of TensorProto)."""
    return next(attribute.i for attribute in cast.attribute if attribute.name == 'to')


class Batches(CalibrationDataReader):
    """Feeds batches to the calibration of ONNX Runtime.

    Args:
        batches (Iterable[ndarray]): The batches.
    """

    def __init__(self, batches):
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch as {input name: array}, or None at the end."""
        batch = next(self.batches, None)
        return None if batch is None else {'image': batch}


def to_int8(proto: onnx.ModelProto, batches: Iterable[np.ndarray]) -> onnx.ModelProto:
    """Quantise the convolutions of a model to int8 (onnx.ModelProto).

    Weights are int8 with one scale per channel, activations are uint8 with min-max calibration. Which nodes
    stay in float32 was determined by the errors of trained networks and by timing. Source:
    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html

    Args:
        proto (onnx.ModelProto): The float32 model; not modified.
        batches (Iterable[ndarray]): Inputs of the model, for the calibration.

    Raises:
        RuntimeError: If an operator is not of the standard domain.
    """
    with tempfile.TemporaryDirectory() as folder, onnx_file.quietly():
        source, prepared, out = (Path(folder, f'{name}.onnx') for name in ('source', 'prepared', 'out'))
        onnx.save(proto, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)  # folds constants
        graph = onnx.load(prepared).graph
        quantize_static(
            prepared,
            out,
            Batches(batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
            reduce_range=True,  # 7 bits: x86 without VNNI sums 8-bit products in 16 bits, which can overflow
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*float32_nodes(graph), *last_layers(graph), *faster_in_float32(graph)],
        )
        return finish(onnx.load(out))


def finish(model: onnx.ModelProto) -> onnx.ModelProto:
    """Sort a converted model topologically and drop the converter's non-standard opsets (onnx.ModelProto).

    Raises:
        RuntimeError: If an operator is not of the standard domain.
    """
    del model.graph.value_info[:]  # inferred shapes, see onnx_file.to_onnx
    onnx_file.operators(model)
    opsets = [entry for entry in model.opset_import if entry.domain in ('', 'ai.onnx')]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    wrapped = ONNXModel(model)
    wrapped.topological_sort()
    return wrapped.model
