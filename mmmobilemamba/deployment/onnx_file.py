"""ONNX files of networks: export, what they hold, and the proof that they are equal to PyTorch."""

import json
import logging
import warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnxruntime
import torch
from onnxscript import opset18 as op

from . import suppress  # noqa: F401  (registers the operator)

OPSET = 18
NO_LIMIT = 2**63 - 1
LARGEST = 2**31 - 1  # bytes that one file of protobuf may have


@contextmanager
def quietly():
    """Without what PyTorch's exporter says on its way, which is about its own insides."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def free_dimensions(image, dynamic_sizes):
    """What of an image is free in the exported graph: the batch, and its sides if wanted."""
    height, width = (1, 2) if image.dtype == torch.uint8 else (2, 3)
    free = {0: torch.export.Dim.DYNAMIC}
    if dynamic_sizes:
        free.update({height: torch.export.Dim.DYNAMIC, width: torch.export.Dim.DYNAMIC})
    return ({axis: free.get(axis) for axis in range(4)},)


def to_program(graph, image, dynamic_sizes):
    """The graph as a program of ``torch.export``, for any batch.

    Args:
        graph (nn.Module): Of one image, such as those of :mod:`.graphs`.
        image (Tensor): An image of the wanted size, in a batch of 2 or more.
        dynamic_sizes (bool): Whether height and width are free, too.
    """
    with quietly(), torch.no_grad():
        shapes = free_dimensions(image, dynamic_sizes)
        return torch.export.export(graph, (image,), dynamic_shapes=shapes, strict=False)


def to_onnx(graph, image, dynamic_sizes):
    """The graph as a model of ONNX, of standard operators (onnx.ModelProto); see :func:`to_program`."""
    program = to_program(graph, image, dynamic_sizes)
    with quietly(), torch.no_grad():
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=['image'],
            output_names=list(graph_of(graph).output_names),
            custom_translation_table={torch.ops.mmmobilemamba.suppress.default: suppression},
            verbose=False,
        )
    return exported.model_proto


def suppression(boxes, scores, iou_threshold, score_threshold):
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


def graph_of(graph):
    """The graph below a preprocessing."""
    return getattr(graph, 'network', graph)


def write(proto, path, about):
    """Write a model with what its users have to know, in one file, or with its weights beside it above 2 GB.

    Args:
        proto (onnx.ModelProto): The model.
        path (Path): Ends in .onnx. A file that is there is replaced in one go.
        about (dict): See :func:`~.build.describe`.
    """
    onnx.helper.set_model_props(proto, {'mmmobilemamba': json.dumps(about)})
    partial = path.with_name(f'.{path.name}.part')
    external = proto.ByteSize() > LARGEST
    try:
        onnx.save(proto, partial, save_as_external_data=external, location=f'{path.name}.data')
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def operators(proto):
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


def open_session(path, threads=None):
    """The file at ``path`` (or the bytes of one), ready to run on the CPU (onnxruntime.InferenceSession)."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    source = str(path) if isinstance(path, Path) else path
    return onnxruntime.InferenceSession(source, options, providers=['CPUExecutionProvider'])


def run(session, image):
    """Outputs (list[ndarray]) for an image, a tensor."""
    return session.run(None, {'image': image.numpy()})
