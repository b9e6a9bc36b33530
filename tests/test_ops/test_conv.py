"""Fused convolutions: C++ against PyTorch, and the choice between them."""

import pytest
import torch
import torch.nn.functional as F

from mmmobilemamba.ops import conv, conv2d, cpu, depthwise_conv2d
from mmmobilemamba.ops.cpu import conv as cpu_conv

from ..conftest import noise_for
from ..helpers import needs_export, needs_torch

SETS = cpu.INSTRUCTION_SETS[: 1 + (0 if cpu.why_not() else cpu.load()[1])]
needs_cpp = pytest.mark.skipif(not cpu.has_vectors(), reason='no kernels with vectors here')
POINTWISE = [
    (1, 1, 16, (1, 1)),
    (2, 7, 17, (3, 4)),
    (1, 33, 70, (13, 15)),
    (3, 64, 32, (9, 11)),
    (1, 200, 49, (4, 4)),
    (2, 24, 33, (1, 27)),
]
SPATIAL = [
    (1, 3, 16, (1, 1)),
    (2, 5, 25, (7, 10)),
    (1, 25, 50, (16, 12)),
    (3, 16, 33, (2, 31)),
    (1, 7, 100, (35, 6)),
]
DEPTHWISE = [
    (1, 16, (1, 1)),
    (2, 23, (3, 5)),
    (1, 33, (8, 7)),
    (2, 16, (17, 9)),
    (1, 20, (35, 12)),
    (1, 150, (1, 19)),
    (2, 40, (18, 2)),
]


def channels_last(*maps):
    return [x.contiguous(memory_format=torch.channels_last) for x in maps]


def assert_close(found, expected):
    """Check equality up to float32 rounding of the largest value."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()


def reference(x, weight, bias, stride, groups, activation, shortcut):
    """The result of PyTorch in float64."""
    x, weight = x.double(), weight.double()
    out = F.conv2d(x, weight, None, stride, weight.shape[2] // 2, groups=groups)
    out = out if bias is None else out + bias.double().view(-1, 1, 1)
    out = {None: out, 'relu': out.clamp(min=0), 'silu': out * out.sigmoid()}[activation]
    return out if shortcut is None else out + shortcut.double()


def arguments(x, shape, stride, rich):
    """Weights of a shape for a map, and a bias and a shortcut if ``rich``."""
    weight = noise_for(shape, 1) / (shape[1] * shape[2] ** 2) ** 0.5
    size = (x.shape[0], shape[0], -(-x.shape[2] // stride), -(-x.shape[3] // stride))
    return weight, noise_for(shape[:1], 2) if rich else None, noise_for(size, 3) if rich else None


@needs_cpp
@pytest.mark.parametrize('activation', [None, 'relu', 'silu'])
@pytest.mark.parametrize('rich', [True, False])
@pytest.mark.parametrize(('batch', 'channels', 'outputs', 'size'), POINTWISE)
@pytest.mark.parametrize('name', SETS)
def test_pointwise(name, batch, channels, outputs, size, rich, activation):
    """Also on a slice of a wider map."""
    (x,) = channels_last(noise_for((batch, channels + 3, *size), 0))
    x = x[:, 2 : 2 + channels]
    weight, bias, shortcut = arguments(x, (outputs, channels, 1, 1), 1, rich)
    found = conv.conv2d_cpp('pointwise', x, weight, bias, 1, activation, shortcut, name)
    assert_close(found, reference(x, weight, bias, 1, 1, activation, shortcut))


@needs_cpp
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize(('batch', 'channels', 'outputs', 'size'), SPATIAL)
@pytest.mark.parametrize('name', SETS)
def test_spatial(name, batch, channels, outputs, size, stride):
    for rich, activation in ((True, 'silu'), (True, 'relu'), (False, None)):
        (x,) = channels_last(noise_for((batch, channels, *size), 0))
        weight, bias, shortcut = arguments(x, (outputs, channels, 3, 3), stride, rich)
        found = conv.conv2d_cpp('spatial', x, weight, bias, stride, activation, shortcut, name)
        assert_close(found, reference(x, weight, bias, stride, 1, activation, shortcut))


@needs_cpp
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('side', cpu_conv.DEPTHWISE_SIDES)
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
@pytest.mark.parametrize(
    ('kernel', 'shape'),
    [('pointwise', (80, 48, 1, 1)), ('spatial', (80, 48, 3, 3)), ('depthwise', (48, 1, 5, 5))],
)
def test_repeatable_whatever_the_threads(kernel, shape):
    (x,), weight = channels_last(noise_for((2, 48, 20, 20), 0)), noise_for(shape, 1)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(conv.conv2d_cpp(kernel, x, weight, None, 1, None, None))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@needs_cpp
@pytest.mark.parametrize(
    ('kernel', 'shape'),
    [('pointwise', (75, 75, 1, 1)), ('spatial', (75, 75, 3, 3)), ('depthwise', (75, 1, 3, 3))],
)
@pytest.mark.parametrize('name', SETS)
def test_repeatable_whatever_the_batch_and_the_place(name, kernel, shape):
    """Also in tiles of other sizes and next to other borders."""
    (x,), weight = channels_last(noise_for((3, 75, 11, 13), 0)), noise_for(shape, 1)

    def run(x):
        return conv.conv2d_cpp(kernel, x, weight, noise_for((75,), 2), 1, 'silu', None, name)

    out = run(x)
    for image in range(3):
        assert torch.equal(run(x[image : image + 1])[0], out[image])
    (part,) = channels_last(x[:, :, 2:9, 3:8])
    assert torch.equal(run(part)[:, :, 1:-1, 1:-1], out[:, :, 3:8, 4:7])


@needs_cpp
@pytest.mark.parametrize(('shape', 'groups'), [((40, 24, 1, 1), 1), ((24, 1, 5, 5), 24)])
def test_layout_changes_nothing(shape, groups):
    """The memory layout of weights, biases and shortcuts does not affect the result."""
    (x,), weight, bias = (
        channels_last(noise_for((2, 24, 6, 6), 0)),
        noise_for(shape, 1),
        noise_for(shape[:1], 2),
    )
    shortcut = noise_for((2, shape[0], 6, 6), 3)
    expected = conv2d(x, weight, bias, groups=groups, shortcut=shortcut)
    laid_out = cpu_conv.lay_out(weight)
    assert torch.equal(laid_out, weight) and laid_out.stride(0) == 1
    sparse = bias.repeat_interleave(2)[::2]
    wide = torch.cat([shortcut, shortcut], dim=1)[:, : shape[0]]
    for other in (*channels_last(shortcut), wide, shortcut.mT.contiguous().mT):
        found = conv2d(x, laid_out, sparse, groups=groups, shortcut=other)
        assert torch.equal(found, expected)
    one = torch.tensor(0.5)
    found = conv2d(x, weight, one.expand(shape[0]), groups=groups)
    torch.testing.assert_close(found, conv2d(x, weight, groups=groups) + one)


@needs_cpp
@pytest.mark.parametrize(
    ('kernel', 'shape', 'groups'),
    [
        ('pointwise', (24, 16, 1, 1), 1),
        ('spatial', (24, 16, 3, 3), 1),
        ('depthwise', (16, 1, 3, 3), 16),
    ],
)
def test_chosen_where_nothing_is_to_be_learnt(monkeypatch, kernel, shape, groups):
    calls = []
    cpp = conv.conv2d_cpp
    monkeypatch.setattr(conv, 'conv2d_cpp', lambda *args: calls.append(args[0]) or cpp(*args))
    (x,), weight = channels_last(noise_for((2, 16, 6, 6), 0)), cpu_conv.lay_out(noise_for(shape, 1))
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
    torch.testing.assert_close(conv2d(by_column, weight, groups=groups), expected)
    assert calls == [kernel] * (4 if kernel == 'depthwise' else 3)


@needs_cpp
def test_other_convolutions_are_left_to_pytorch():
    (x,) = channels_last(noise_for((1, 32, 8, 8), 0))
    for shape, stride, groups in (
        ((32, 32, 5, 5), 1, 1),
        ((32, 32, 3, 3), 3, 1),
        ((32, 32, 1, 1), 2, 1),
        ((32, 16, 1, 1), 1, 2),
        ((64, 1, 3, 3), 1, 32),
        ((32, 1, 9, 9), 1, 32),
        ((32, 1, 3, 3), 3, 32),
        ((15, 32, 1, 1), 1, 1),  # fewer elements than a vector
    ):
        assert cpu_conv.find_kernel(x, cpu_conv.lay_out(noise_for(shape, 0)), stride, groups) is None
    weight = noise_for((16, 32, 1, 1), 0)
    assert cpu_conv.find_kernel(x, weight, 1, 1) == 'pointwise'
    assert cpu_conv.find_kernel(x[:0], weight, 1, 1) is None
    weight, (wide,) = noise_for((32, 32, 3, 3), 0), channels_last(noise_for((1, 40, 8, 8), 0))
    assert cpu_conv.find_kernel(x, weight, 1, 1) is None  # the weight would be repacked at every call
    weight = cpu_conv.lay_out(weight)
    assert cpu_conv.find_kernel(x, weight, 2, 1) == 'spatial'
    assert cpu_conv.find_kernel(wide[:, :32], weight, 2, 1) is None
    for channels, kernel in ((15, None), (16, 'depthwise')):
        assert cpu_conv.find_kernel(x[:, :channels], noise_for((channels, 1, 3, 3), 0), 2, channels) == kernel


@pytest.mark.parametrize(
    ('shape', 'groups', 'bias'),
    [
        ((24, 4, 1, 1), 1, None),  # fewer channels than the map
        ((24, 96, 1, 1), 1, None),
        ((24, 96, 3, 3), 1, None),
        ((64, 2, 3, 3), 64, None),
        ((24, 64, 1, 1), 1, 4),
        ((24, 64, 3, 3), 1, 4),
        ((64, 1, 3, 3), 64, 1),
    ],
)
def test_what_does_not_fit_is_as_in_pytorch(shape, groups, bias):
    """Wrong shapes are an error or handled as in PyTorch; nothing is read out of bounds."""
    (x,), weight = channels_last(noise_for((1, 64, 8, 8), 0)), cpu_conv.lay_out(noise_for(shape, 1))
    bias = bias and noise_for((bias,), 2)
    try:
        expected = F.conv2d(x, weight, bias, padding=shape[2] // 2, groups=groups)
    except RuntimeError as error:
        with pytest.raises(RuntimeError, match=str(error)[:20]):
            conv2d(x, weight, bias, groups=groups)
    else:
        torch.testing.assert_close(conv2d(x, weight, bias, groups=groups), expected)


@needs_cpp
def test_maps_of_one_pixel(monkeypatch):
    """As in squeeze-and-excitation; their strides do not determine the memory format."""
    monkeypatch.setattr(F, 'conv2d', None)
    for x in channels_last(noise_for((3, 12, 5, 5), 0)):
        pooled, weight = x.mean((2, 3), keepdim=True), noise_for((20, 12, 1, 1), 1)
        expected = (pooled.flatten(1) @ weight.flatten(1).T)[..., None, None]
        torch.testing.assert_close(conv2d(pooled, weight), expected)
        torch.testing.assert_close(conv2d(pooled[:1], weight), expected[:1])


def test_single_image_without_a_batch():
    x, weight = noise_for((4, 6, 6), 0), noise_for((8, 4, 1, 1), 1)
    torch.testing.assert_close(conv2d(x, weight), F.conv2d(x, weight))


@needs_cpp
def test_nan_and_infinity_stay():
    (x,), weight = channels_last(noise_for((1, 16, 2, 2), 0)), torch.eye(16).view(16, 16, 1, 1)
    x[0, 0, 0, 0], x[0, 1, 1, 1] = float('nan'), float('inf')
    out = conv2d(x, weight, activation='relu')
    assert out[0, :, 0, 0].isnan().all() and out[0, 1, 1, 1] == float('inf')
    assert conv2d(x, weight, activation='silu')[0, 0, 0, 0].isnan()
    for activation in ('relu', 'silu'):
        out = conv2d(x, noise_for((16, 1, 3, 3), 1).abs(), groups=16, activation=activation)
        assert out[0, 0].isnan().all() and out[0, 1, 1, 1] == float('inf') and out[0, 2:].isfinite().all()


@pytest.mark.parametrize('batch', [1, 3, 16])
@pytest.mark.parametrize('size', [(16, 16), (7, 9), (13, 13), (2, 2), (1, 64)])
def test_pointwise_of_few_images(batch, size):
    """Pixels are passed to PyTorch as more images; values, gradients and memory format are unchanged."""
    (wide,) = channels_last(noise_for((batch, 8, *size), 0).double())
    x, bias = wide[:, 1:7].requires_grad_(), noise_for((5,), 2).double().requires_grad_()
    weight = noise_for((5, 6, 1, 1), 1).double().requires_grad_()
    out, expected = conv2d(x, weight, bias), F.conv2d(x, weight, bias)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-14)
    assert out.is_contiguous(memory_format=torch.channels_last)
    upstream = noise_for(expected.shape, 3).double()
    grads, others = (torch.autograd.grad(y, (x, weight, bias), upstream) for y in (out, expected))
    for grad, other in zip(grads, others):
        torch.testing.assert_close(grad, other, rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize(
    ('shape', 'seen'),
    [((1, 6, 16, 16), (16, 1)), ((2, 6, 7, 16), (16, 1)), ((16, 6, 4, 4), (16, 4)), ((1, 6, 7, 7), (1, 7))],
)
@needs_torch('2.3')
def test_how_many_images_pytorch_sees(monkeypatch, shape, seen):
    """At least sixteen in channels-last, if the sides permit; the original number in the other format."""
    (x,), weight, sizes = channels_last(noise_for(shape, 0).double()), noise_for((5, 6, 1, 1), 1).double(), []
    real = F.conv2d
    monkeypatch.setattr(
        F, 'conv2d', lambda x, *args, **kwargs: sizes.append(x.shape) or real(x, *args, **kwargs)
    )
    conv2d(x, weight)
    conv2d(x.contiguous(), weight)
    assert [(size[0], size[2]) for size in sizes] == [seen, (shape[0], shape[2])]


@needs_export
def test_free_sizes_are_not_asked_for():
    """An exported graph has no guard on the number of pixels."""

    class Convolution(torch.nn.Module):
        def forward(self, x, weight):
            return conv2d(x, weight, activation='relu', shortcut=x)

    dynamic = torch.export.Dim.DYNAMIC
    args = channels_last(noise_for((2, 4, 20, 30), 0)) + [noise_for((4, 4, 1, 1), 1)]
    program = torch.export.export(
        Convolution(), tuple(args), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic}, None)
    )
    x = channels_last(noise_for((1, 4, 300, 300), 0))[0]
    torch.testing.assert_close(
        program.module()(x, args[1]), conv2d(x, args[1], activation='relu', shortcut=x)
    )


@pytest.mark.parametrize('shape', [(16, 16, 1, 3), (16, 16, 3, 1), (16, 16, 2, 2), (16, 16), (16, 16, 3)])
def test_kernels_that_would_change_the_size_are_refused(shape):
    """Otherwise, they would silently return another shape; also for depthwise convolutions."""
    for x in channels_last(noise_for((1, 16, 6, 6), 0)):
        with pytest.raises(ValueError, match=r'weight must have the shape \(O, C / groups, k, k\), k odd'):
            conv2d(x, noise_for(shape, 1))
        with pytest.raises(ValueError, match='k odd'):
            depthwise_conv2d(x, noise_for((16, 1, *shape[2:]), 1))


def test_errors():
    x, weight = noise_for((1, 4, 6, 6), 0), noise_for((8, 4, 1, 1), 1)
    with pytest.raises(ValueError, match=r"activation must be None or one of \['relu', 'silu'\], not 'gelu'"):
        conv2d(x, weight, activation='gelu')
    with pytest.raises(ValueError, match="backend 'fast' is not one of"):
        conv2d(x, weight, backend='fast')
    for image in (x, *channels_last(x)):
        with pytest.raises(
            ValueError, match=r'shortcut must have the shape \(1, .*\) of the output, not \(1, 4, 6, 6\)'
        ):
            conv2d(image, weight, shortcut=x)
