"""ONNX files: export, reading, writing, inspection, and running with ONNX Runtime."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxscript import opset18 as op
from torch import Tensor, nn

from ..utils.garbage import frozen_heap
from ..utils.quiet import quietly
from . import suppress  # noqa: F401  (registers the operator)
from .custom_ops import DOMAIN, with_custom_ops
from .errors import DeploymentError, check_torch, refusing
from .graphs import graph_of
from .portable import portable
from .rewrite import rewrite
from .splits import narrow_splits

OPSET = 18
NO_LIMIT = 2**63 - 1
LARGE_SIDES = (1120, 1248)  # px; no level of a feature pyramid has a side of 1
LARGEST = 2**31 - 1  # bytes, the size limit of a protobuf file


def free_dimensions(image: Tensor, dynamic_sizes: bool) -> tuple[dict[int, Any]]:
    """Return the ``dynamic_shapes`` for ``torch.export``: a dynamic batch, and sides if ``dynamic_sizes``."""
    sides = sides_of(image) if dynamic_sizes else ()
    return ({axis: torch.export.Dim.DYNAMIC if axis in (0, *sides) else None for axis in range(4)},)


def sides_of(image: Tensor) -> tuple[int, int]:
    """Return the axes of height and width: images are uint8 (N, H, W, C) or float32 (N, C, H, W)."""
    return (1, 2) if image.dtype == torch.uint8 else (2, 3)


def to_program(
    graph: nn.Module, image: Tensor, dynamic_sizes: bool, custom_ops: bool = False
) -> torch.export.ExportedProgram:
    """Export a graph with ``torch.export``, with a dynamic batch size.

    Args:
        graph (nn.Module): A graph such as those of :mod:`.graphs`.
        image (Tensor): Images of the wanted size, in a batch of 2 or more.
        dynamic_sizes (bool): Whether height and width are dynamic as well.
        custom_ops (bool): Whether to use the operators of :mod:`.custom_ops`. Defaults to False.

    Returns:
        torch.export.ExportedProgram: The program of :func:`~.custom_ops.with_custom_ops` if ``custom_ops``,
        of :func:`~.rewrite.rewrite` if sizes are dynamic, of :func:`fixed_form` otherwise.

    Raises:
        DeploymentError: If PyTorch is too old, or cannot export the graph.
    """
    check_torch()
    shapes = free_dimensions(image, dynamic_sizes)
    if dynamic_sizes:
        # torch.export would specialise a side of 1 in any feature map.
        sides = dict(zip(sides_of(image), LARGE_SIDES))
        image = image.new_zeros([sides.get(axis, size) for axis, size in enumerate(image.shape)])
    # Guards of a scan compiled earlier in this process can make the export fail (PyTorch 2.12).
    torch.compiler.reset()
    with refusing(dynamic_sizes=dynamic_sizes), quietly(), frozen_heap(), torch.no_grad():
        if custom_ops:
            form = with_custom_ops(graph)
        else:
            form = rewrite(graph) if dynamic_sizes else fixed_form(graph, image)
        return torch.export.export(form, (image,), dynamic_shapes=shapes, strict=False)


def fixed_form(graph: nn.Module, image: Tensor) -> nn.Module:
    """Return the portable form of a graph for one image size, or else its rewritten form.

    Both are about as fast in ONNX Runtime; other runtimes do not support ``Scan``.
    """
    try:
        return portable(graph, image, softplus='log')
    except DeploymentError:  # for example, norm layers that do not fold
        return rewrite(graph)


def to_onnx(
    graph: nn.Module, image: Tensor, dynamic_sizes: bool, custom_ops: bool = False
) -> onnx.ModelProto:
    """Export a graph as an ONNX model (onnx.ModelProto), of standard operators unless ``custom_ops``.

    Arguments and errors as in :func:`to_program`.
    """
    program = to_program(graph, image, dynamic_sizes, custom_ops)
    with refusing(dynamic_sizes=dynamic_sizes), quietly(), frozen_heap(), torch.no_grad():
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=['image'],
            output_names=getattr(graph_of(graph), 'output_names', None),
            custom_translation_table={torch.ops.mmmobilemamba.suppress.default: _suppression},
            verbose=False,
        )
    proto = exported.model_proto
    narrow_splits(proto)
    # Shapes inferred by PyTorch can differ from those of ONNX Runtime, which plans its memory by them.
    del proto.graph.value_info[:]
    forget_origins(proto)
    return proto


def forget_origins(proto: onnx.ModelProto) -> None:
    """Drop the exporter's metadata of each node: the source code it came from, with paths of this machine."""
    graphs = [proto.graph]
    while graphs:
        graph = graphs.pop()
        for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
            del part.metadata_props[:]
            part.doc_string = ''
        graphs += [
            attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField('g')
        ]


def _suppression(boxes, scores, iou_threshold, score_threshold):
    """:func:`~.suppress.suppress` as standard operators.

    Source: https://onnx.ai/onnx/operators/onnx__NonMaxSuppression.html
    """
    picked = op.NonMaxSuppression(
        boxes,
        op.Unsqueeze(scores, op.Constant(value_ints=[1])),
        op.Constant(value_ints=[NO_LIMIT]),
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[score_threshold]),
    )
    places = op.Gather(picked, op.Constant(value_ints=[0, 2]), axis=1)  # image and box, without the class
    nothing = op.Mul(scores, op.Constant(value_float=0.0))
    return op.ScatterND(nothing, places, op.GatherND(scores, places))


def write(proto: onnx.ModelProto, path: Path, about: Mapping[str, Any]) -> None:
    """Write a model and its metadata to one file; above 2 GB, the weights go to a second file beside it.

    Args:
        proto (onnx.ModelProto): The model.
        path (Path): The output path, ending in .onnx.
        about (dict): The metadata, see :func:`~.build.describe`.
    """
    onnx.helper.set_model_props(proto, {'mmmobilemamba': json.dumps(about)})
    external = proto.ByteSize() > LARGEST
    onnx.save(proto, str(path), save_as_external_data=external, location=weights_of(path).name)


def weights_of(path: Path) -> Path:
    """Return the path of the external weights of the file at ``path``."""
    return path.with_name(f'{path.name}.data')


def move(path: Path, target: Path) -> None:
    """Move a file with its external weights, if any, to ``target``; each replaces what is there atomically.

    ``target`` has the name of ``path``, as a model stores the name of its weights.
    """
    if weights_of(path).exists():
        weights_of(path).replace(weights_of(target))
    path.replace(target)


def remove(path: Path) -> None:
    """Remove a file and its external weights, if they exist."""
    for part in (path, weights_of(path)):
        part.unlink(missing_ok=True)


def operators(proto: onnx.ModelProto, custom_ops: bool = False) -> Counter[str]:
    """Count the operators of a model, including those in loop bodies (Counter).

    Args:
        proto (onnx.ModelProto): The model.
        custom_ops (bool): Whether those of :mod:`.custom_ops` are allowed; they are counted with their
            domain. Defaults to False.

    Raises:
        RuntimeError: If an operator is neither of the standard domain nor allowed.
    """
    standard, allowed = ('', 'ai.onnx'), (DOMAIN,) if custom_ops else ()
    counts, graphs = Counter(), [proto.graph, *proto.functions]
    while graphs:
        for node in graphs.pop().node:
            if node.domain not in (*standard, *allowed):
                raise RuntimeError(f'{node.op_type} of {node.domain} is no standard operator.')
            counts[node.op_type if node.domain in standard else f'{node.domain}.{node.op_type}'] += 1
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField('g')]
    return counts


def without_probes(proto: onnx.ModelProto, count: int) -> onnx.ModelProto:
    """Return a copy with only the first ``count`` outputs and the nodes they depend on (onnx.ModelProto)."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    del model.graph.output[count:]
    used = {output.name for output in model.graph.output}
    for node in reversed(list(model.graph.node)):
        if used.isdisjoint(node.output):
            model.graph.node.remove(node)
        else:
            used.update(node.input, *map(outer_values, node.attribute))
    return model


def outer_values(attribute: onnx.AttributeProto) -> set[str]:
    """Return all names that a loop body reads, from the outer scope or its own (set[str])."""
    names, graphs = set(), [attribute.g] if attribute.HasField('g') else []
    while graphs:
        for node in graphs.pop().node:
            names.update(node.input)
            graphs += [part.g for part in node.attribute if part.HasField('g')]
    return names


def with_probes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with additional outputs, for comparisons that are finer than selected boxes or classes.

    These are the inputs of each suppression, boxes (N, B, 4) and scores (N, 1, B), and the logits of a
    segmentor that only returns classes.
    """
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    given = {output.name for output in probe.graph.output}
    for node in probe.graph.node:
        count = {'NonMaxSuppression': 2, 'ArgMax': 1}.get(node.op_type, 0)
        for name in node.input[:count]:
            if name not in given:
                probe.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return probe


def session_options(threads: int | None = None, library: Path | None = None) -> onnxruntime.SessionOptions:
    """Return options of a session without warnings (onnxruntime.SessionOptions); arguments as below."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    if library is not None:
        options.register_custom_ops_library(str(library))
    return options


def open_session(
    path: str | Path | bytes, threads: int | None = None, library: Path | None = None
) -> onnxruntime.InferenceSession:
    """Open a file, or the bytes of one, in ONNX Runtime on the CPU (onnxruntime.InferenceSession).

    Args:
        path (str | Path | bytes): The file, or its content.
        threads (int, optional): Threads within an operator. Defaults to ONNX Runtime's own choice.
        library (Path, optional): The library of the operators of :mod:`.custom_ops`. Defaults to None.
    """
    source = str(path) if isinstance(path, Path) else path
    options = session_options(threads, library)
    return onnxruntime.InferenceSession(source, options, providers=['CPUExecutionProvider'])


def read_about(session: onnxruntime.InferenceSession) -> dict[str, Any]:
    """Return the metadata of a file (dict), see :func:`~.build.describe`; {} if it has none."""
    return json.loads(session.get_modelmeta().custom_metadata_map.get('mmmobilemamba', '{}'))


def run(session: onnxruntime.InferenceSession, image: Tensor) -> list[np.ndarray]:
    """Run a session on a batch of images (Tensor); returns its outputs (list[ndarray])."""
    return session.run(None, {'image': image.numpy()})
