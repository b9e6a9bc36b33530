"""Files of ONNX in float16 and in 8 bits, made from one in float32 with the tools of ONNX Runtime.

Both keep float32 at the inputs and outputs, in :func:`float32_nodes`, and standard operators alone.
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

# The scan adds up small steps over the whole image; what chooses by order, or computes pixels, needs more
# digits than its inputs have. Decays are exponentials, by which a scan is found that has no loop.
CHOICES = ('TopK', 'NonMaxSuppression', 'RoiAlign')
SENSITIVE = ('Scan', 'Exp', *CHOICES)
STATISTICS = ('LayerNormalization', 'InstanceNormalization')  # their sums of squares exceed float16
ENDS = ('Conv', 'ConvTranspose', 'Gemm')  # of what is around a sensitive node
UPSAMPLING = ('ConvTranspose', 'DepthToSpace')
QUANTISED = ('Conv', 'Relu', 'Add', 'Split', 'Concat')


def float32_nodes(graph: onnx.GraphProto, kinds: Collection[str] = SENSITIVE) -> list[str]:
    """Names (list[str]) of the nodes that stay in float32.

    These are the sensitive ones and all that leads from a convolution, or a linear layer, to them and from
    them to the next: of the scan everything from the convolution before it to the norm behind it, and of a
    detector everything that its head's outputs go through.

    Args:
        graph (onnx.GraphProto): With a name for each node, as the exporter gives them.
        kinds (Sequence[str]): The operators of the sensitive ones.
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
    """Names (list[str]) of the layers whose outputs boxes and their scores are computed from."""
    behind = set(float32_nodes(graph, CHOICES))
    taken = {name for node in graph.node if node.name in behind for name in node.input}
    return [node.name for node in graph.node if node.op_type in ENDS and taken.intersection(node.output)]


def faster_in_float32(graph: onnx.GraphProto) -> list[str]:
    """Names (list[str]) of the convolutions that 8 bits would slow down in ONNX Runtime.

    These are the first, of few channels, and the wavelet's branch: grouped ones that end in a transposed one,
    which exists in float32 alone, or in a shuffle of pixels.
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
    """The number of groups of a convolution (int)."""
    return next((attribute.i for attribute in conv.attribute if attribute.name == 'group'), 1)


def to_float16(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model in float16 (onnx.ModelProto), half as large.

    Source: https://onnxruntime.ai/docs/performance/model-optimizations/float16.html

    Args:
        proto (onnx.ModelProto): In float32; not changed.

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
    """Let float32 nodes have each other's outputs as they are, where the converter went through float16."""
    casts = {node.output[0]: node for node in graph.node if node.op_type == 'Cast'}
    outputs = {output.name for output in graph.output}
    direct = {}
    for name, node in casts.items():
        before = casts.get(node.input[0])
        if before is None or (target(before), target(node)) != (TensorProto.FLOAT16, TensorProto.FLOAT):
            continue
        if not before.name.endswith('_cast_to_fp16_node'):  # of a whole number, which may become either
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
    """The type that a node Cast makes (int of TensorProto)."""
    return next(attribute.i for attribute in cast.attribute if attribute.name == 'to')


class Batches(CalibrationDataReader):
    """Arrays as what ONNX Runtime's calibration reads."""

    def __init__(self, batches):
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch by the name of the input (dict), or None."""
        batch = next(self.batches, None)
        return None if batch is None else {'image': batch}


def to_int8(proto: onnx.ModelProto, batches: Iterable[np.ndarray]) -> onnx.ModelProto:
    """The model with convolutions in 8 bits (onnx.ModelProto): weights int8, scaled by channel, maps uint8.

    The ranges of the maps are the largest that are seen. What stays in float32 was found out with trained
    networks and by timing. Source:
    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html

    Args:
        proto (onnx.ModelProto): In float32; not changed.
        batches (Iterable[ndarray]): Images as the model takes them, which show what values occur.

    Raises:
        RuntimeError: If an operator is not of the standard domain.
    """
    with tempfile.TemporaryDirectory() as folder, onnx_file.quietly():
        source, prepared, out = (Path(folder, f'{name}.onnx') for name in ('source', 'prepared', 'out'))
        onnx.save(proto, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)  # which folds constants
        graph = onnx.load(prepared).graph
        quantize_static(
            prepared,
            out,
            Batches(batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
            reduce_range=True,  # 7 bits: x86 without VNNI adds products of 8 up in 16 bits, which overflow
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*float32_nodes(graph), *last_layers(graph), *faster_in_float32(graph)],
        )
        return finish(onnx.load(out))


def finish(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that a tool has made, in order, and with nothing that is only that tool's (onnx.ModelProto)."""
    del model.graph.value_info[:]  # sizes, see onnx_file.to_onnx
    onnx_file.operators(model)
    opsets = [entry for entry in model.opset_import if entry.domain in ('', 'ai.onnx')]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    wrapped = ONNXModel(model)
    wrapped.topological_sort()
    return wrapped.model
