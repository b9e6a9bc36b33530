"""Depthwise convolution in Triton: under Triton's interpreter in a separate process, and on a GPU."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode

from mmmobilemamba.ops import conv2d, depthwise_conv2d, select_backend
from mmmobilemamba.ops.backends import AS_OPERATOR
from mmmobilemamba.ops.conv import padded_conv, wants_padding
from mmmobilemamba.ops.triton import depthwise_operator
from mmmobilemamba.ops.triton.depthwise_operator import depthwise_conv

from ..conftest import ROOT, noise_for, relative_error
from ..helpers import needs_torch

needs_operator = pytest.mark.skipif(not AS_OPERATOR, reason='needs torch 2.4')
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
BOUNDS = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}

# Kernel sides, strides, channels and sizes: maps of one pixel, of odd sizes and of several tiles.
SHAPES = [
    (3, 1, 5, (1, 1)),
    (3, 1, 40, (3, 9)),
    (3, 2, 33, (5, 8)),
    (5, 1, 7, (4, 4)),
    (5, 2, 6, (7, 3)),
    (7, 1, 3, (6, 8)),
    (7, 2, 4, (3, 12)),
]

INTERPRETED = """
import torch
from mmmobilemamba.ops.triton import depthwise
from tests.test_ops.test_triton_depthwise import SHAPES, check_all, check_memory_formats
depthwise.PROGRAMS, depthwise.SHARES = 1, 4
for shape in SHAPES:
    check_all(depthwise, 3, shape, torch.float32, 'cpu')
# Smaller tiles and blocks, and all rows of taps at once.
depthwise.PROGRAMS, tile = 8, depthwise.Tile(32, (16,), unrolls=True)
depthwise.FORWARD = depthwise.GRAD_INPUT = depthwise.GRAD_WEIGHT = {3: tile}
for dtype in (torch.float16, torch.bfloat16):
    check_all(depthwise, 2, SHAPES[2], dtype, 'cpu')
check_memory_formats(depthwise, 'cpu')
"""


def near(found, expected, dtype):
    """Whether values equal ``expected`` (float64) up to the rounding of ``dtype``."""
    return found.dtype == dtype and relative_error(found.cpu(), expected) < BOUNDS[dtype]


def last(x):
    """A copy in channels-last."""
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def slice_of_wider(x):
    """The same map as a channel slice of a wider one in channels-last."""
    return last(torch.cat([x, x, x], dim=1))[:, x.shape[1] : 2 * x.shape[1]]


def exact(x, weight, bias, stride, activation=None, shortcut=None):
    """The result of PyTorch in float64."""
    side, groups = weight.shape[2], weight.shape[0]
    out = F.conv2d(x, weight, bias, stride, side // 2, groups=groups)
    out = out if activation is None else getattr(F, activation)(out)
    return out if shortcut is None else out + shortcut


def check_all(kernels, batch, shape, dtype, device):
    """Check outputs with and without fused operations, and both gradients, for a slice of channels."""
    side, stride, channels, size = shape
    given = [
        noise_for(shape, salt).to(dtype)
        for salt, shape in enumerate([(batch, channels, *size), (channels, 1, side, side), (channels,)])
    ]
    x, weight, bias = (tensor.double().requires_grad_() for tensor in given)
    out = exact(x, weight, bias, stride)
    grad, shortcut = (noise_for(out.shape, salt).to(dtype) for salt in (3, 4))
    out.backward(grad.double())
    x_given, grad_given, shortcut_given = (slice_of_wider(y.to(device)) for y in (given[0], grad, shortcut))
    parameters = [y.to(device) for y in given[1:]]
    with torch.no_grad():
        for follows in ((None, None), ('relu', None), ('silu', shortcut)):
            expected = exact(x, weight, bias, stride, *follows)
            follows = (follows[0], None if follows[1] is None else shortcut_given)
            found = kernels.forward(x_given, *parameters, stride, *follows)
            assert near(found, expected, dtype) and found.stride() == last(found).stride(), (shape, follows)
    found = kernels.forward(x_given, parameters[0], None, stride)
    assert near(found, exact(x, weight, None, stride).detach(), dtype), shape
    found = kernels.grad_input(grad_given, parameters[0], size, stride)
    assert near(found, x.grad, dtype) and found.stride() == last(found).stride(), shape
    found, again = (kernels.grad_weight(grad_given, x_given, side, stride) for _ in range(2))
    assert near(found, weight.grad, torch.float32) and torch.equal(found, again), shape
    assert found.is_contiguous()


def check_memory_formats(kernels, device):
    """Maps in other memory formats are copied; weights can have any layout."""
    x, weight = noise_for((2, 8, 4, 5), 0).to(device), noise_for((8, 1, 3, 3), 1).to(device)
    out = kernels.forward(last(x), weight)
    grads = kernels.grad_input(last(out), weight, (4, 5)), kernels.grad_weight(last(out), last(x), 3)
    by_tap = weight.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
    cropped = last(F.pad(x, (1, 1)))[..., 1:-1]
    for image, weights in ((x, weight), (last(x), by_tap), (cropped, weight)):
        assert torch.equal(kernels.forward(image, weights), out)
        assert torch.equal(kernels.grad_input(out.contiguous(), weights, (4, 5)), grads[0])
        assert torch.equal(kernels.grad_weight(out.contiguous(), image, 3), grads[1])
    one = torch.ones((), device=device)
    found = kernels.grad_input(one.expand(2, 8, 4, 5), weight, (4, 5))
    assert torch.equal(found, kernels.grad_input(torch.ones_like(last(x)), weight, (4, 5)))
    empty = x[:0]
    assert kernels.forward(empty, weight, None, 2).shape == (0, 8, 2, 3)
    assert kernels.grad_input(empty, weight, (4, 5)).shape == (0, 8, 4, 5)
    assert torch.equal(kernels.grad_weight(empty, empty, 3), torch.zeros_like(weight))


@needs_torch('2.12')
def test_interpreted():
    pytest.importorskip('triton')
    environment = dict(os.environ, TRITON_INTERPRET='1', CUDA_VISIBLE_DEVICES='')
    command = [sys.executable, '-W', 'ignore', '-c', INTERPRETED]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


PATTERNS = dict(
    float32=lambda: (last(noise_for((2, 6, 5, 4), 0)), noise_for((6, 1, 3, 3), 1), None, 1),
    stride=lambda: (last(noise_for((2, 4, 5, 8), 0)), noise_for((4, 1, 5, 5), 1), noise_for((4,), 2), 2),
    slices=lambda: (slice_of_wider(noise_for((1, 4, 3, 3), 0)), noise_for((4, 1, 7, 7), 1), None, 1),
    channels_first=lambda: (noise_for((2, 3, 4, 4), 0), noise_for((3, 1, 3, 3), 1), None, 2),
    mixed=lambda: (last(noise_for((1, 4, 3, 3), 0)).bfloat16(), noise_for((4, 1, 3, 3), 1), None, 1),
)


@needs_operator
@pytest.mark.parametrize('pattern', PATTERNS)
def test_opcheck(pattern):
    check_operators(PATTERNS[pattern]())


def check_operators(args):
    """Run PyTorch's opcheck on all four operators."""
    x, weight, bias, stride = args
    operators = torch.ops.mmmobilemamba
    torch.library.opcheck(operators.depthwise_conv.default, args)
    out = operators.depthwise_conv(*args)
    torch.library.opcheck(operators.depthwise_conv_act.default, (*args, 'silu', out.contiguous()))
    leaves = [y if y is None else y.detach().requires_grad_() for y in (x, weight, bias)]
    torch.library.opcheck(operators.depthwise_conv.default, (*leaves, stride))
    grad = out.detach().requires_grad_()
    to_input = (grad, leaves[1], x.shape[2:], stride)
    torch.library.opcheck(operators.depthwise_conv_grad_input.default, to_input)
    to_weight = (grad, leaves[0], weight.shape[2], stride)
    torch.library.opcheck(operators.depthwise_conv_grad_weight.default, to_weight)


@needs_operator
@pytest.mark.parametrize('stride', [1, 2])
def test_derivatives_of_any_order(stride):
    x, weight, bias = (noise_for(shape, 0).double() for shape in ((1, 2, 3, 2), (2, 1, 3, 3), (2,)))
    args = [y.requires_grad_() for y in (x, weight, bias)]
    assert torch.autograd.gradcheck(lambda *tensors: depthwise_conv(*tensors, stride), args)
    assert torch.autograd.gradgradcheck(lambda *tensors: depthwise_conv(*tensors, stride), args)


@needs_operator
def test_only_gradients_that_are_asked_for(monkeypatch):
    x, weight, bias, stride = PATTERNS['stride']()
    calls = []
    for name in ('_grad_input', '_grad_weight'):
        real = getattr(depthwise_operator, name)
        monkeypatch.setattr(
            depthwise_operator, name, lambda *args, name=name, real=real: calls.append(name) or real(*args)
        )
    depthwise_conv(x.requires_grad_(), weight, bias, stride).sum().backward()
    depthwise_conv(x.detach(), weight.requires_grad_(), bias, stride).sum().backward()
    depthwise_conv(x.detach(), weight.detach(), bias.requires_grad_(), stride).sum().backward()
    assert calls == ['_grad_input', '_grad_weight']


def network(x, weight, last_weight, backend='auto'):
    out = conv2d(x, weight, groups=x.shape[1], activation='relu', shortcut=x, backend=backend)
    return depthwise_conv2d(out, last_weight, stride=2, backend=backend)


def graph_of(*args, function=network, **options):
    """Names of the calls in the single graph that a compiler gets for a function."""
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph.graph)
        return graph.forward

    torch.compiler.reset()
    out = torch.compile(function, fullgraph=True, backend=keep, **options)(*args)
    (graph,) = graphs
    targets = [node.target for node in graph.nodes if node.op.startswith('call')]
    return [target if isinstance(target, str) else target.__name__ for target in targets], out


@pytest.fixture
def on_a_gpu():
    """Fake GPU arguments of :func:`network`, which need no GPU."""
    pytest.importorskip('triton')
    with FakeTensorMode():
        weights = [torch.empty(8, 1, side, side, device='cuda', requires_grad=True) for side in (3, 5)]
        yield torch.empty(2, 6, 6, 8, device='cuda').permute(0, 3, 1, 2), *weights


@needs_operator
@pytest.mark.parametrize('dynamic', [False, True])
@needs_torch('2.12')
def test_compiled_for_a_gpu(on_a_gpu, dynamic):
    """Without graph breaks, and as one fused operator without gradients."""
    names, out = graph_of(*on_a_gpu, dynamic=dynamic)
    operators = [name for name in names if 'conv' in name]
    assert operators == ['depthwise_conv'] * 2 and 'relu' in names
    assert out.shape == (2, 8, 3, 3) and out.stride() == (72, 1, 24, 8)
    with torch.no_grad():
        names, out = graph_of(*on_a_gpu, dynamic=dynamic)
    assert [name for name in names if 'conv' in name] == ['depthwise_conv_act'] * 2
    assert 'relu' not in names and out.dtype == torch.float32


@pytest.fixture
def autocast_on_a_gpu():
    """Enable bfloat16 autocast directly, because the context manager requires a GPU."""
    before = torch.get_autocast_dtype('cuda')
    torch.set_autocast_enabled('cuda', True)
    torch.set_autocast_dtype('cuda', torch.bfloat16)
    yield
    torch.set_autocast_enabled('cuda', False)
    torch.set_autocast_dtype('cuda', before)


@needs_operator
@needs_torch('2.12')
def test_compiled_for_a_gpu_under_autocast(on_a_gpu, autocast_on_a_gpu):
    """Uses Triton in inference and cuDNN in training."""
    names, out = graph_of(*on_a_gpu)
    assert 'conv2d' in names and 'depthwise_conv' not in names
    with torch.no_grad():
        names, out = graph_of(*on_a_gpu)
    # The shortcut of the first is float32.
    assert [name for name in names if 'conv' in name] == ['depthwise_conv', 'depthwise_conv_act']
    assert out.dtype == torch.bfloat16


@needs_operator
@pytest.mark.parametrize('shape', [(25, 3, 3, 3), (32, 8, 3, 3), (25, 8, 1, 1)])
def test_channels_in_eights_for_tensor_cores(on_a_gpu, autocast_on_a_gpu, shape):
    """Only if a compiler can fuse the padding."""
    x = torch.empty(2, 9, 9, shape[1], device='cuda').permute(0, 3, 1, 2)
    weight = torch.empty(shape, device='cuda', requires_grad=True)
    names, out = graph_of(x, weight, function=conv2d)
    assert names.count('pad') == (2 if shape == (25, 3, 3, 3) else 0)
    assert out.shape == (2, shape[0], 9, 9) and not wants_padding(x, weight, 1)


def test_channels_in_eights_change_nothing():
    x, weight, bias = noise_for((2, 3, 9, 8), 0), noise_for((25, 3, 3, 3), 1), noise_for((25,), 2)
    for stride in (1, 2):
        expected = F.conv2d(x, weight, bias, stride, 1)
        assert relative_error(padded_conv(last(x), weight, bias, stride), expected) < 1e-6


@needs_operator
def test_left_to_pytorch_on_a_gpu(on_a_gpu):
    """Other memory formats, dtypes and backends."""
    x, *weights = on_a_gpu
    doubles = [y.double() for y in on_a_gpu]
    for args in ((x.contiguous(), *weights), doubles, (*on_a_gpu, 'torch')):
        assert 'conv2d' in graph_of(*args)[0]
    with torch.no_grad():
        assert conv2d(x, weights[0], groups=8).shape == x.shape  # a dispatch mode records


def test_depthwise_conv2d_on_a_cpu():
    x, weight, bias, stride = PATTERNS['stride']()
    expected = F.conv2d(x, weight, bias, stride, 2, groups=4)
    assert torch.equal(depthwise_conv2d(x, weight, bias, stride), expected)
    assert torch.equal(depthwise_conv2d(x, weight, bias, stride, backend='triton'), expected)
    with pytest.raises(ValueError, match="backend 'fast' is not one of"):
        depthwise_conv2d(x, weight, backend='fast')


ON_A_GPU = [(SHAPES[2], dtype) for dtype in BOUNDS]
ON_A_GPU += [
    (shape, torch.bfloat16) for shape in ((3, 1, 40, (23, 34)), (5, 1, 75, (8, 9)), (7, 1, 48, (16, 7)))
]


@needs_gpu
@pytest.mark.parametrize(('shape', 'dtype'), ON_A_GPU)
def test_on_a_gpu(shape, dtype):
    from mmmobilemamba.ops.triton import depthwise

    check_all(depthwise, 5, shape, dtype, 'cuda')


@needs_gpu
def test_memory_formats_on_a_gpu():
    from mmmobilemamba.ops.triton import depthwise

    check_memory_formats(depthwise, 'cuda')


@needs_gpu
def test_operators_on_a_gpu():
    assert select_backend(device='cuda').backend == 'triton'
    x, weight, bias, stride = PATTERNS['stride']()
    check_operators((last(x.cuda()), weight.cuda(), bias.cuda(), stride))


@needs_gpu
@pytest.mark.parametrize('dtype', [None, torch.bfloat16, torch.float16])
def test_chosen_on_a_gpu(dtype):
    """The choice in training and inference, also under autocast."""
    given = last(noise_for((2, 8, 6, 7), 0)), noise_for((8, 1, 3, 3), 1), noise_for((8,), 2)
    leaves = [y.cuda().requires_grad_() for y in given]
    leaves[0] = leaves[0].detach().requires_grad_()
    doubles = [y.double().requires_grad_() for y in given]
    expected = exact(*doubles, 1, 'silu')
    bound = BOUNDS[dtype or torch.float32]
    with torch.autocast('cuda', dtype or torch.float16, enabled=dtype is not None):
        out = conv2d(*leaves, groups=8, activation='silu')
        with torch.no_grad():
            fused = conv2d(*leaves, groups=8, activation='silu')
    for found in (out, fused):
        assert found.dtype == (dtype or torch.float32)
        assert relative_error(found.detach().cpu(), expected.detach()) < 2 * bound
    out.sum().backward()
    expected.sum().backward()
    for leaf, double in zip(leaves, doubles):
        assert leaf.grad.dtype == torch.float32
        assert relative_error(leaf.grad.cpu(), double.grad) < 4 * bound
