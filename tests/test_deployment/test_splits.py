"""Splits with many outputs become trees of smaller splits with the same outputs."""

import numpy as np
import pytest

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')

from onnx import TensorProto, helper  # noqa: E402

from mmmobilemamba.deployment.splits import MOST_OUTPUTS, narrow_splits  # noqa: E402


def split_of(sizes):
    """A model that splits the second axis into ``sizes``, or evenly if all are equal."""
    names = [f'piece{index}' for index in range(len(sizes))]
    even = len(set(sizes)) == 1
    inputs = ['x'] if even else ['x', 'sizes']
    attributes = dict(num_outputs=len(sizes)) if even else {}
    constants = [] if even else [helper.make_tensor('sizes', TensorProto.INT64, [len(sizes)], sizes)]
    graph = helper.make_graph(
        [helper.make_node('Split', inputs, names, axis=1, **attributes)],
        'split',
        [helper.make_tensor_value_info('x', TensorProto.FLOAT, [2, sum(sizes), 3])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, s, 3]) for n, s in zip(names, sizes)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9)


@pytest.mark.parametrize('sizes', [[1] * 7, [1] * 8, [2] * 14, [1, 2, 3] * 5, [1] * 50, [1, 2] * 60])
def test_same_pieces(sizes):
    proto = split_of(sizes)
    narrow_splits(proto)
    onnx.checker.check_model(proto)
    assert max(len(node.output) for node in proto.graph.node) <= MOST_OUTPUTS == 7
    assert (len(proto.graph.node) == 1) == (len(sizes) <= 7)
    x = np.random.default_rng(0).random((2, sum(sizes), 3), np.float32)
    pieces = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {'x': x})
    for piece, expected in zip(pieces, np.split(x, np.cumsum(sizes)[:-1], axis=1)):
        assert np.array_equal(piece, expected)


def test_unknown_sizes_stay():
    proto = split_of([1] * 9)
    proto.graph.output[3].type.tensor_type.shape.dim[1].dim_param = 'n'
    narrow_splits(proto)
    assert [len(node.output) for node in proto.graph.node] == [9]
