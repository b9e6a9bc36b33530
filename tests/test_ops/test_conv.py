"""Convolution with what follows it: C++ against PyTorch, and where which of them is taken."""

import pytest
import torch
import torch.nn.functional as F

from mmmobilemamba.ops import conv, conv2d, cpu

from ..conftest import noise_for

SETS = cpu.INSTRUCTION_SETS[: 1 + (0 if cpu.why_not() else cpu.load()[1])]
needs_cpp = pytest.mark.skipif(cpu.why_not() is not None, reason=str(cpu.why_not()))
POINTWISE = [
    (1, 1, 1, (1, 1)),
    (2, 7, 5, (3, 4)),
    (1, 33, 70, (13, 15)),
    (3, 64, 32, (9, 11)),
    (1, 200, 49, (4, 4)),
]
DEPTHWISE = [(1, 1, (1, 1)), (2, 7, (3, 5)), (1, 33, (8, 7)), (2, 16, (17, 9)), (1, 20, (35, 12))]


def channels_last(*maps):
    return [x.contiguous(memory_format=torch.channels_last) for x in maps]


def assert_close(found, expected):
    """To rounding in float32, of the largest value."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()


def reference(x, weight, bias, stride, groups, activation, shortcut):
    """In float64, by PyTorch."""
    x, weight = x.double(), weight.double()
    out = F.conv2d(x, weight, None, stride, weight.shape[2] // 2, groups=groups)
    out = out if bias is None else out + bias.double().view(-1, 1, 1)
    out = {None: out, 'relu': out.clamp(min=0), 'silu': out * out.sigmoid()}[activation]
    return out if shortcut is None else out + shortcut.double()


def arguments(x, shape, stride, rich):
    """Weights of a shape, and with ``rich`` a bias and a shortcut, for a map."""
    weight = noise_for(shape, 1) / (shape[1] * shape[2] ** 2) ** 0.5
    size = (x.shape[0], shape[0], -(-x.shape[2] // stride), -(-x.shape[3] // stride))
    return weight, noise_for(shape[:1], 2) if rich else None, noise_for(size, 3) if rich else None


@needs_cpp
@pytest.mark.parametrize('activation', [None, 'relu', 'silu'])
@pytest.mark.parametrize('rich', [True, False])
@pytest.mark.parametrize(('batch', 'channels', 'outputs', 'size'), POINTWISE)
@pytest.mark.parametrize('name', SETS)
def test_pointwise(name, batch, channels, outputs, size, rich, activation):
    """On a slice of a wider map, too."""
    (x,) = channels_last(noise_for((batch, channels + 3, *size), 0))
    x = x[:, 2 : 2 + channels]
    weight, bias, shortcut = arguments(x, (outputs, channels, 1, 1), 1, rich)
    found = conv.conv2d_cpp('pointwise', x, weight, bias, 1, activation, shortcut, name)
    assert_close(found, reference(x, weight, bias, 1, 1, activation, shortcut))


@needs_cpp
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('side', conv.DEPTHWISE_SIDES)
@pytest.mark.parametrize(('batch', 'channels', 'size'), DEPTHWISE)
@pytest.mark.parametrize('name', SETS)
def test_depthwise(name, batch, channels, size, side, stride):
    for rich, activation in ((True, 'silu'), (True, 'relu'), (False, None)):
        (x,) = channels_last(noise_for((batch, 2 * channels, *size), 0))
        x = x[:, channels:]
        weight, bias, shortcut = arguments(x, (channels, 1, side, side), stride, rich)
        found = conv.conv2d_cpp('depthwise', x, weight, bias, stride, activation, shortcut, name)
        assert_close(found, reference(x, weight, bias, stride, channels, activation, shortcut))


@needs_cpp
@pytest.mark.parametrize('threads', [1, 2])
def test_repeatable_whatever_the_threads(threads):
    x, weight = channels_last(noise_for((2, 48, 20, 20), 0))[0], noise_for((80, 48, 1, 1), 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = conv.conv2d_cpp('pointwise', x, weight, None, 1, None, None)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, conv.conv2d_cpp('pointwise', x, weight, None, 1, None, None))


@needs_cpp
def test_layout_of_the_weights_changes_nothing():
    x, weight = channels_last(noise_for((1, 24, 6, 6), 0))[0], noise_for((40, 24, 1, 1), 1)
    laid_out = conv.lay_out(weight)
    assert torch.equal(laid_out, weight) and laid_out.stride(0) == 1
    assert torch.equal(conv2d(x, laid_out), conv2d(x, weight))


@needs_cpp
@pytest.mark.parametrize(
    ('kernel', 'shape', 'groups'), [('pointwise', (8, 4, 1, 1), 1), ('depthwise', (4, 1, 3, 3), 4)]
)
def test_chosen_where_nothing_is_to_be_learnt(monkeypatch, kernel, shape, groups):
    calls = []
    cpp = conv.conv2d_cpp
    monkeypatch.setattr(conv, 'conv2d_cpp', lambda *args: calls.append(args[0]) or cpp(*args))
    (x,), weight = channels_last(noise_for((2, 4, 6, 6), 0)), noise_for(shape, 1)
    expected = F.conv2d(x, weight, padding=shape[2] // 2, groups=groups)
    torch.testing.assert_close(conv2d(x, weight, groups=groups), expected)
    torch.testing.assert_close(conv2d(x, weight, groups=groups, backend='cpp'), expected)
    with torch.no_grad():
        torch.testing.assert_close(conv2d(x, weight.clone().requires_grad_(), groups=groups), expected)
    assert calls == [kernel] * 3
    by_column = x.transpose(2, 3).contiguous(memory_format=torch.channels_last).transpose(2, 3)
    for other in (x.clone().requires_grad_(), x.contiguous(), torch._neg_view(-x), x.to('meta')):
        assert conv2d(other, weight.to(other.device), groups=groups).shape == expected.shape
    torch.testing.assert_close(conv2d(x, weight, groups=groups, backend='torch'), expected)
    torch.testing.assert_close(conv2d(x.double(), weight.double(), groups=groups).float(), expected)
    with torch.autocast('cpu', torch.bfloat16):
        assert conv2d(x, weight, groups=groups).dtype == torch.bfloat16
    assert calls == [kernel] * 3
    torch.testing.assert_close(conv2d(by_column, weight, groups=groups), expected)


@needs_cpp
def test_other_convolutions_are_left_to_pytorch():
    (x,) = channels_last(noise_for((1, 6, 8, 8), 0))
    assert conv.find_kernel(x, noise_for((6, 6, 3, 3), 0), 1, 1) is None
    assert conv.find_kernel(x, noise_for((6, 6, 1, 1), 0), 2, 1) is None
    assert conv.find_kernel(x, noise_for((6, 3, 1, 1), 0), 1, 2) is None
    assert conv.find_kernel(x, noise_for((12, 1, 3, 3), 0), 1, 6) is None
    assert conv.find_kernel(x, noise_for((6, 1, 9, 9), 0), 1, 6) is None
    assert conv.find_kernel(x[:0], noise_for((6, 6, 1, 1), 0), 1, 1) is None


@needs_cpp
def test_nan_and_infinity_stay():
    (x,), weight = channels_last(noise_for((1, 4, 2, 2), 0)), torch.eye(4).view(4, 4, 1, 1)
    x[0, 0, 0, 0], x[0, 1, 1, 1] = float('nan'), float('inf')
    out = conv2d(x, weight, activation='relu')
    assert out[0, :, 0, 0].isnan().all() and out[0, 1, 1, 1] == float('inf')
    assert conv2d(x, weight, activation='silu')[0, 0, 0, 0].isnan()


@pytest.mark.parametrize('batch', [1, 3, 16])
@pytest.mark.parametrize('size', [(16, 16), (7, 9), (13, 13), (2, 2), (1, 64)])
def test_pointwise_of_few_images(batch, size):
    """PyTorch sees the pixels as more images; neither values nor gradients nor memory format change."""
    x = channels_last(noise_for((batch, 6, *size), 0).double())[0].requires_grad_()
    weight, bias = noise_for((5, 6, 1, 1), 1).double().requires_grad_(), noise_for((5,), 2).double()
    out, expected = conv2d(x, weight, bias), F.conv2d(x, weight, bias)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-14)
    assert out.is_contiguous(memory_format=torch.channels_last)
    upstream = noise_for(expected.shape, 3).double()
    grads, others = (torch.autograd.grad(y, (x, weight), upstream) for y in (out, expected))
    for grad, other in zip(grads, others):
        torch.testing.assert_close(grad, other, rtol=1e-13, atol=1e-12)


def test_errors():
    x, weight = noise_for((1, 4, 6, 6), 0), noise_for((8, 4, 1, 1), 1)
    with pytest.raises(ValueError, match=r"activation must be None or one of \['relu', 'silu'\], not 'gelu'"):
        conv2d(x, weight, activation='gelu')
    with pytest.raises(ValueError, match="backend 'fast' is not one of"):
        conv2d(x, weight, backend='fast')
    if cpu.why_not() is None:
        (x,) = channels_last(x)
        with pytest.raises(ValueError, match='shortcut must have the shape of the output'):
            conv2d(x, weight, shortcut=x)
