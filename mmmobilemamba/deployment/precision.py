"""Converts a float32 ONNX file to float16 or int8 with the tools of ONNX Runtime.

Inputs, outputs and :func:`float32_nodes` stay in float32. The operators are standard ones, and in int8 also
those of :mod:`.custom_ops` that the float32 file has.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto
from onnxruntime import GraphOptimizationLevel, InferenceSession
from onnxruntime.quantization import CalibrationDataReader, MinMaxCalibrater, QDQQuantizer, QuantType
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from ..utils.quiet import quietly
from . import onnx_file
from .custom_ops import DOMAIN

# The scan accumulates small steps over the whole image. Operators that rank scores or compute coordinates
# need more precision than their inputs have. Exp finds the decays of scans without a loop; SelectiveScan is
# the scan of custom_ops.
CHOICES = ('TopK', 'NonMaxSuppression', 'RoiAlign')
SENSITIVE = ('Scan', 'SelectiveScan', 'Exp', *CHOICES)
STATISTICS = ('LayerNormalization', 'NormGate', 'InstanceNormalization')  # sums of squares exceed float16
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


class Calibrater(MinMaxCalibrater):
    """Finds the ranges of tensors in a session that knows the operators of a library.

    Args:
        path (Path): The model, with the element types of its tensors.
        library (Path, optional): The library of the operators of :mod:`.custom_ops`.
    """

    def __init__(self, path, library):
        super().__init__(path, QUANTISED, path.with_stem('augmented'))
        self.library = library
        self.augment_graph()
        self.create_inference_session()

    def create_inference_session(self) -> None:
        """Open the augmented model, as the base class does."""
        options = onnx_file.session_options(library=self.library)
        options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
        path = str(self.augmented_model_path)
        self.infer_session = InferenceSession(path, options, providers=self.execution_providers)


def to_int8(
    proto: onnx.ModelProto, batches: Iterable[np.ndarray], library: Path | None = None
) -> onnx.ModelProto:
    """Quantise the convolutions of a model to int8 (onnx.ModelProto).

    Weights are int8 with one scale per channel, activations are uint8 with min-max calibration. Which nodes
    stay in float32 was determined by the errors of trained networks and by timing. These are the steps of
    ``quantize_static``, which cannot load a library of operators. Source:
    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html

    Args:
        proto (onnx.ModelProto): The float32 model; not modified.
        batches (Iterable[ndarray]): Inputs of the model, for the calibration.
        library (Path, optional): The library of the operators of :mod:`.custom_ops`, which are then allowed.
            Defaults to None.

    Raises:
        RuntimeError: If an operator is neither of the standard domain nor allowed.
    """
    with tempfile.TemporaryDirectory() as folder, quietly():
        path = Path(folder, 'folded.onnx')
        fold_constants(proto, library, path)
        model = with_types(onnx.load(path))
        onnx.save(model, path)
        calibrater = Calibrater(path, library)
        calibrater.collect_data(Batches(batches))
        graph = model.graph
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=True,  # 7 bits: x86 without VNNI sums 8-bit products in 16 bits, which can overflow
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=calibrater.compute_data(),
            nodes_to_quantize=[],  # all of the types below
            nodes_to_exclude=[*float32_nodes(graph), *last_layers(graph), *faster_in_float32(graph)],
            op_types_to_quantize=list(QUANTISED),
            extra_options={},
        )
        quantizer.quantize_model()
    return finish(quantizer.model.model, custom_ops=library is not None)


def fold_constants(proto: onnx.ModelProto, library: Path | None, path: Path) -> None:
    """Write a model to ``path`` as ONNX Runtime simplifies it: without nodes whose inputs are constant."""
    options = onnx_file.session_options(library=library)
    options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    InferenceSession(proto.SerializeToString(), options, providers=['CPUExecutionProvider'])


def with_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that names the element type of every tensor, also behind operators without inference."""
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    typed.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for node in model.graph.node
        if node.domain == DOMAIN
        for name in node.output
    )
    return onnx.shape_inference.infer_shapes(typed)


def finish(model: onnx.ModelProto, custom_ops: bool = False) -> onnx.ModelProto:
    """Sort a converted model topologically and drop the opsets that the converter added (onnx.ModelProto).

    Raises:
        RuntimeError: If an operator is neither of the standard domain nor of an allowed :mod:`.custom_ops`.
    """
    del model.graph.value_info[:]  # inferred shapes, see onnx_file.to_onnx
    onnx_file.operators(model, custom_ops)
    domains = ('', 'ai.onnx', DOMAIN) if custom_ops else ('', 'ai.onnx')
    opsets = [entry for entry in model.opset_import if entry.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    wrapped = ONNXModel(model)
    wrapped.topological_sort()
    return wrapped.model
