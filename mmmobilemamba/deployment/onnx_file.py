"""ONNX files of networks: export, what they hold, and the proof that they are equal to PyTorch."""

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

from . import suppress  # noqa: F401  (registers the operator)
from .errors import DeploymentError, check_torch, quietly, refusing
from .graphs import graph_of
from .portable import portable
from .rewrite import rewrite
from .splits import narrow_splits

OPSET = 18
NO_LIMIT = 2**63 - 1
LARGE_SIDES = (1120, 1248)  # px, of which no level of a pyramid has one pixel
LARGEST = 2**31 - 1  # bytes that one file of protobuf may have


def free_dimensions(image: Tensor, dynamic_sizes: bool) -> tuple[dict[int, Any]]:
    """What of an image is free in the exported graph: the batch, and its sides if wanted."""
    sides = sides_of(image) if dynamic_sizes else ()
    return ({axis: torch.export.Dim.DYNAMIC if axis in (0, *sides) else None for axis in range(4)},)


def sides_of(image: Tensor) -> tuple[int, int]:
    """The axes of height and width."""
    return (1, 2) if image.dtype == torch.uint8 else (2, 3)


def to_program(graph: nn.Module, image: Tensor, dynamic_sizes: bool) -> torch.export.ExportedProgram:
    """The graph as a program of ``torch.export``, for any batch, in the form that suits its sizes.

    Args:
        graph (nn.Module): Of one image, such as those of :mod:`.graphs`.
        image (Tensor): An image of the wanted size, in a batch of 2 or more.
        dynamic_sizes (bool): Whether height and width are free, too.

    Raises:
        DeploymentError: If PyTorch is too old, or cannot export it.
    """
    check_torch()
    shapes = free_dimensions(image, dynamic_sizes)
    if dynamic_sizes:
        # A side of 1 on the way would be taken for one of every image.
        sides = dict(zip(sides_of(image), LARGE_SIDES))
        image = image.new_zeros([sides.get(axis, size) for axis, size in enumerate(image.shape)])
    # A guard of a scan that this process compiled before may be no more than an error (PyTorch 2.12).
    torch.compiler.reset()
    with refusing(dynamic_sizes=dynamic_sizes), quietly(), torch.no_grad():
        form = rewrite(graph) if dynamic_sizes else fixed_form(graph, image)
        return torch.export.export(form, (image,), dynamic_shapes=shapes, strict=False)


def fixed_form(graph: nn.Module, image: Tensor) -> nn.Module:
    """The graph for images of one size: :func:`~.portable.portable`, or rewritten where it has no such form.

    Both are about as fast in ONNX Runtime; other runtimes know no ``Scan``.
    """
    try:
        return portable(graph, image, softplus='log')
    except DeploymentError:  # of norm layers that do not fold, say
        return rewrite(graph)


def to_onnx(graph: nn.Module, image: Tensor, dynamic_sizes: bool) -> onnx.ModelProto:
    """The graph as a model of ONNX, of standard operators (onnx.ModelProto); see :func:`to_program`."""
    program = to_program(graph, image, dynamic_sizes)
    with refusing(dynamic_sizes=dynamic_sizes), quietly(), torch.no_grad():
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
    # Sizes that PyTorch derives are not always those of ONNX Runtime, which would share memory by them.
    del proto.graph.value_info[:]
    forget_origins(proto)
    return proto


def forget_origins(proto: onnx.ModelProto) -> None:
    """Drop what the exporter notes of every node: the code it is from, with paths of this machine."""
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
    """:func:`~.suppress.suppress` in standard operators.

    Source: https://onnx.ai/onnx/operators/onnx__NonMaxSuppression.html
    """
    picked = op.NonMaxSuppression(
        boxes,
        op.Unsqueeze(scores, op.Constant(value_ints=[1])),
        op.Constant(value_ints=[NO_LIMIT]),
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[score_threshold]),
    )
    places = op.Gather(picked, op.Constant(value_ints=[0, 2]), axis=1)  # image and box of each
    nothing = op.Mul(scores, op.Constant(value_float=0.0))
    return op.ScatterND(nothing, places, op.GatherND(scores, places))


def write(proto: onnx.ModelProto, path: Path, about: Mapping[str, Any]) -> None:
    """Write a model with what its users have to know, in one file, or with its weights beside it above 2 GB.

    Args:
        proto (onnx.ModelProto): The model.
        path (Path): Ends in .onnx.
        about (dict): See :func:`~.build.describe`.
    """
    onnx.helper.set_model_props(proto, {'mmmobilemamba': json.dumps(about)})
    external = proto.ByteSize() > LARGEST
    onnx.save(proto, str(path), save_as_external_data=external, location=weights_of(path).name)


def weights_of(path: Path) -> Path:
    """Where a file at ``path`` has its weights, if it has not got them itself."""
    return path.with_name(f'{path.name}.data')


def move(path: Path, target: Path) -> None:
    """Move a file, with its weights if they are beside it, in place of what is there."""
    if weights_of(path).exists():  # which it names
        model = onnx.load(str(path))
        remove(path)
        onnx.save(model, str(target), save_as_external_data=True, location=weights_of(target).name)
    else:
        path.replace(target)


def remove(path: Path) -> None:
    """Remove a file, with its weights if they are beside it, if it is there."""
    for part in (path, weights_of(path)):
        part.unlink(missing_ok=True)


def operators(proto: onnx.ModelProto) -> Counter[str]:
    """How often each operator occurs, in the bodies of loops, too (Counter).

    Raises:
        RuntimeError: If one is not of the standard domain.
    """
    counts, graphs = Counter(), [proto.graph, *proto.functions]
    while graphs:
        for node in graphs.pop().node:
            if node.domain not in ('', 'ai.onnx'):
                raise RuntimeError(f'{node.op_type} of {node.domain} is no standard operator.')
            counts[node.op_type] += 1
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField('g')]
    return counts


def without_probes(proto: onnx.ModelProto, count: int) -> onnx.ModelProto:
    """A copy with the first ``count`` outputs, without what only others need (onnx.ModelProto)."""
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
    """Names of what a loop's body takes from around it (set[str]), and of its own."""
    names, graphs = set(), [attribute.g] if attribute.HasField('g') else []
    while graphs:
        for node in graphs.pop().node:
            names.update(node.input)
            graphs += [part.g for part in node.attribute if part.HasField('g')]
    return names


def with_probes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with further outputs, which tell more than choices do.

    These are boxes, (N, B, 4), and scores, (N, 1, B), that go into each suppression, and logits of a
    segmentor that gives classes alone.
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


def open_session(path: str | Path | bytes, threads: int | None = None) -> onnxruntime.InferenceSession:
    """The file at ``path`` (or the bytes of one), ready to run on the CPU (onnxruntime.InferenceSession)."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    source = str(path) if isinstance(path, Path) else path
    return onnxruntime.InferenceSession(source, options, providers=['CPUExecutionProvider'])


def read_about(session: onnxruntime.InferenceSession) -> dict[str, Any]:
    """What a file says of itself (dict), see :func:`~.build.describe`; {} if nothing."""
    return json.loads(session.get_modelmeta().custom_metadata_map.get('mmmobilemamba', '{}'))


def run(session: onnxruntime.InferenceSession, image: Tensor) -> list[np.ndarray]:
    """Outputs (list[ndarray]) for an image, a tensor."""
    return session.run(None, {'image': image.numpy()})
