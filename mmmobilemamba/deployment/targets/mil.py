"""Computes a file of Core ML where Core ML does not run: its operators, one by one, in PyTorch.

The file is read back with coremltools, weights too; that Apple's own kernels give the same, it cannot tell.
Source: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from coremltools.converters.mil.frontend.milproto.load import load
from coremltools.models.utils import load_spec
from torch import Tensor

from ..errors import DeploymentError

WEIGHTS = Path('Data', 'com.apple.CoreML', 'weights')
TYPES = dict(fp32=torch.float32, fp16=torch.float16, int32=torch.int32, bool=torch.bool)
Given = Mapping[str, Any]  # what an operator is given, by its names: tensors, NumPy's values, lists or None


class MilProgram:
    """A file of Core ML, computed in PyTorch.

    Args:
        path (Path): The folder NAME.mlpackage.

    Raises:
        DeploymentError: If it has an operator that is not known here.
    """

    def __init__(self, path: Path):
        spec = load_spec(str(path))
        program = load(spec, spec.specificationVersion, str(path / WEIGHTS))
        self.function = program.functions['main']
        for operation in self.function.operations:
            kind = operation.op_type
            if kind not in OPERATORS and kind != 'const':
                raise DeploymentError(
                    f'{path.name} has the operator {kind} of Core ML, which cannot be computed here: '
                    f'make the file on a Mac, where Core ML itself runs it.'
                )

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs by name, of images that are the first axis of both."""
        found = [self.run_one(torch.from_numpy(batch[index : index + 1])) for index in range(len(batch))]
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]}

    @torch.no_grad()
    def run_one(self, image: Tensor) -> dict[str, np.ndarray]:
        """Outputs by name, of one image."""
        ((name, _),) = self.function.inputs.items()
        values: dict[str, Any] = {name: image}
        for operation in self.function.operations:
            if operation.op_type == 'const':
                values[operation.outputs[0].name] = operation.outputs[0].val
                continue
            given = {
                key: [values[part.name] for part in value]
                if isinstance(value, (list, tuple))
                else None
                if value is None
                else values[value.name]
                for key, value in operation.inputs.items()
            }
            results = OPERATORS[operation.op_type](given)
            results = results if isinstance(results, (list, tuple)) else [results]
            for output, result in zip(operation.outputs, results):
                values[output.name] = result
        return {output.name: values[output.name].numpy() for output in self.function.outputs}


def tensor(value: Any) -> Tensor:
    """A value as a tensor."""
    return value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))


def numbers(value: Any) -> list[int]:
    """A constant as integers."""
    return [int(x) for x in np.atleast_1d(np.asarray(value))]


def in_float32(function: Callable[..., Any]) -> Callable[..., Tensor]:
    """A function of tensors, computed in float32 and rounded to the type of its first argument."""

    def compute(x, *others):
        return function(x.float(), *(None if part is None else tensor(part).float() for part in others)).to(
            x.dtype
        )

    return compute


def elementwise(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Given], Tensor]:
    """An operator of x and y, which broadcast."""
    return lambda given: function(tensor(given['x']), tensor(given['y']))


def unary(function: Callable[[Tensor], Tensor]) -> Callable[[Given], Tensor]:
    """An operator of x alone."""
    return lambda given: in_float32(function)(tensor(given['x']))


def padded(given: Given, x: Tensor, fill: float = 0.0) -> Tensor:
    """Maps (N, C, H, W) with the border that ``pad_type`` asks for."""
    kind = given['pad_type']
    if kind == 'valid':
        return x
    if kind == 'custom':
        top, bottom, left, right = numbers(given['pad'])
        return F.pad(x, (left, right, top, bottom), value=fill)
    raise DeploymentError(f'The padding {kind!r} of Core ML cannot be computed here.')


def conv(given: Given) -> Tensor:
    """Convolution of two axes; weight (outputs, inputs / groups, height, width)."""
    weight, (groups,) = tensor(given['weight']), numbers(given['groups'])
    strides, dilations = numbers(given['strides']), numbers(given['dilations'])

    def compute(x, weight, bias):
        x = padded(given, x)
        return F.conv2d(x, weight, bias, strides, 0, dilations, groups)

    return in_float32(compute)(given['x'], weight, given.get('bias'))


def conv_transpose(given: Given) -> Tensor:
    """Transposed convolution of two axes; weight (inputs, outputs / groups, height, width)."""
    (groups,), strides = numbers(given['groups']), numbers(given['strides'])
    dilations = numbers(given['dilations'])
    if given['pad_type'] not in ('valid', 'custom'):
        raise DeploymentError(f'The padding {given["pad_type"]!r} of Core ML cannot be computed here.')
    cut = [0] * 4 if given['pad_type'] == 'valid' else numbers(given['pad'])

    def compute(x, weight, bias):
        x = F.conv_transpose2d(x, weight, bias, strides, 0, 0, groups, dilations)
        return x[:, :, cut[0] : x.shape[2] - cut[1], cut[2] : x.shape[3] - cut[3]]

    return in_float32(compute)(given['x'], given['weight'], given.get('bias'))


def pool(function: Callable[..., Tensor], fill: float) -> Callable[[Given], Tensor]:
    """A pooling of two axes."""

    def compute(given: Given) -> Tensor:
        if given.get('ceil_mode') or (fill == 0 and given.get('exclude_padding_from_average')):
            raise DeploymentError('A pooling of Core ML with partial windows cannot be computed here.')
        sizes, strides = numbers(given['kernel_sizes']), numbers(given['strides'])
        return in_float32(lambda x: function(padded(given, x, fill), sizes, strides))(given['x'])

    return compute


def pad(given: Given) -> Tensor:
    """A border around the last axes; (before, after) of each, the first axis first."""
    if given['mode'] != 'constant':
        raise DeploymentError(f'The padding {given["mode"]!r} of Core ML cannot be computed here.')
    pairs = np.asarray(given['pad']).reshape(-1, 2)[::-1]
    return F.pad(given['x'], numbers(pairs.reshape(-1)), value=float(given['constant_val']))


def split(given: Given) -> list[Tensor]:
    """Pieces along an axis, of given sizes or of one size."""
    sizes, (axis,) = given.get('split_sizes'), numbers(given['axis'])
    if sizes is None:
        return list(given['x'].chunk(numbers(given['num_splits'])[0], axis))
    return list(given['x'].split(numbers(sizes), axis))


def concat(given: Given) -> Tensor:
    """Pieces put together along an axis."""
    if given.get('interleave'):
        raise DeploymentError('Interleaved pieces of Core ML cannot be computed here.')
    return torch.cat([tensor(part) for part in given['values']], numbers(given['axis'])[0])


def stack(given: Given) -> Tensor:
    """Pieces along an axis of their own."""
    return torch.stack([tensor(part) for part in given['values']], numbers(given['axis'])[0])


def reshape(given: Given) -> Tensor:
    """Other axes; 0 stands for the size that there is, -1 for what is left."""
    x, shape = given['x'], numbers(given['shape'])
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)])


def slice_by_index(given: Given) -> Tensor:
    """A part from ``begin`` to ``end``; masks stand for a whole side and for a single place."""
    x, begin, end = given['x'], numbers(given['begin']), numbers(given['end'])
    masks = {
        key: [False] * x.ndim if given.get(key) is None else [bool(flag) for flag in np.asarray(given[key])]
        for key in ('begin_mask', 'end_mask', 'squeeze_mask')
    }
    steps = [1] * x.ndim if given.get('stride') is None else numbers(given['stride'])
    if min(steps) < 1:
        raise DeploymentError('Slices of Core ML that go backwards cannot be computed here.')
    parts: list[Any] = []
    for axis in range(x.ndim):
        first = None if masks['begin_mask'][axis] else begin[axis]
        last = None if masks['end_mask'][axis] else end[axis]
        parts.append(begin[axis] if masks['squeeze_mask'][axis] else slice(first, last, steps[axis]))
    return x[tuple(parts)]


def reduction(function: Callable[..., Tensor]) -> Callable[[Given], Tensor]:
    """An operator over axes, all unless they are named."""

    def compute(given: Given) -> Tensor:
        x = given['x']
        axes = list(range(x.ndim)) if given.get('axes') is None else numbers(given['axes'])
        return in_float32(lambda x: function(x, axes, bool(given['keep_dims'])))(x)

    return compute


def layer_norm(given: Given) -> Tensor:
    """Norm over the last axes."""
    x, axes = given['x'], numbers(given['axes'])
    shape = [x.shape[axis] for axis in sorted(axis % x.ndim for axis in axes)]
    if sorted(axis % x.ndim for axis in axes) != list(range(x.ndim - len(axes), x.ndim)):
        raise DeploymentError('A norm of Core ML over inner axes cannot be computed here.')
    norm = in_float32(lambda x, gamma, beta: F.layer_norm(x, shape, gamma, beta, float(given['epsilon'])))
    return norm(x, given.get('gamma'), given.get('beta'))


def batch_norm(given: Given) -> Tensor:
    """Norm of channels with given statistics."""
    norm = in_float32(
        lambda x, mean, variance, gamma, beta: F.batch_norm(
            x, mean, variance, gamma, beta, False, 0.0, float(given['epsilon'])
        )
    )
    return norm(given['x'], *(given.get(key) for key in ('mean', 'variance', 'gamma', 'beta')))


def matmul(given: Given) -> Tensor:
    """Product of matrices, either transposed if asked for."""
    x, y = tensor(given['x']), tensor(given['y'])
    x = x.transpose(-1, -2) if given.get('transpose_x') else x
    return x @ (y.transpose(-1, -2) if given.get('transpose_y') else y)


def resize(given: Given, x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of maps, with or without aligned corners."""
    aligned = bool(given.get('align_corners'))
    return in_float32(lambda x: F.interpolate(x, size, mode='bilinear', align_corners=aligned))(x)


def scaled(given: Given, x: Tensor) -> tuple[int, int]:
    """Height and width of maps, times the factors of a resize."""
    factors = (given['scale_factor_height'], given['scale_factor_width'])
    height, width = (int(np.floor(side * float(factor) + 1e-4)) for side, factor in zip(x.shape[2:], factors))
    return height, width


def upsample_bilinear(given: Given) -> Tensor:
    """Bilinear resize by factors."""
    x = given['x']
    if not given.get('align_corners') and not given.get('half_pixel_centers', True):
        raise DeploymentError('A resize of Core ML without centred pixels cannot be computed here.')
    return resize(given, x, scaled(given, x))


def upsample_nearest(given: Given) -> Tensor:
    """Nearest resize by factors."""
    x = given['x']
    size = scaled(given, x)
    if any(wanted % side for wanted, side in zip(size, x.shape[2:])):
        raise DeploymentError('A nearest resize of Core ML to no multiple cannot be computed here.')
    return F.interpolate(x, size)


def argmax(given: Given) -> Tensor:
    """Where the largest value of an axis is."""
    return given['x'].argmax(numbers(given['axis'])[0], keepdim=bool(given['keep_dims'])).int()


def dequantise(given: Given) -> Tensor:
    """Weights that are held in 8 bits; scale and zero point are of the whole or of each place of an axis."""
    weight, (axis,) = tensor(given['quantized_data']), numbers(given['axis'])
    shape = [-1 if index == axis else 1 for index in range(weight.ndim)]

    def spread(x: Any) -> Tensor:
        x = tensor(x)
        return x.reshape(shape) if x.ndim else x

    zero, scale = spread(given['zero_point']), spread(given['scale'])
    return ((weight.float() - zero.float()) * scale.float()).to(scale.dtype)


def linear(given: Given) -> Tensor:
    """Product with a matrix (outputs, inputs), and a bias."""
    return in_float32(F.linear)(given['x'], given['weight'], given.get('bias'))


OPERATORS: dict[str, Callable[[Given], Any]] = dict(
    add=elementwise(torch.add),
    sub=elementwise(torch.sub),
    mul=elementwise(torch.mul),
    real_div=elementwise(torch.div),
    minimum=elementwise(torch.minimum),
    maximum=elementwise(torch.maximum),
    exp=unary(torch.exp),
    relu=unary(F.relu),
    relu6=unary(F.relu6),
    sigmoid=unary(torch.sigmoid),
    silu=unary(F.silu),
    softplus=unary(F.softplus),
    sqrt=unary(torch.sqrt),
    square=unary(torch.square),
    tanh=unary(torch.tanh),
    clip=lambda given: given['x'].clamp(float(given['alpha']), float(given['beta'])),
    rsqrt=lambda given: (tensor(given['x']).float() + float(given['epsilon'])).rsqrt().to(given['x'].dtype),
    softmax=lambda given: in_float32(lambda x: x.softmax(numbers(given['axis'])[0]))(given['x']),
    cast=lambda given: tensor(given['x']).to(TYPES[str(given['dtype'])]),
    conv=conv,
    conv_transpose=conv_transpose,
    linear=linear,
    matmul=matmul,
    max_pool=pool(F.max_pool2d, -float('inf')),
    avg_pool=pool(F.avg_pool2d, 0.0),
    layer_norm=layer_norm,
    batch_norm=batch_norm,
    reduce_mean=reduction(torch.mean),
    reduce_sum=reduction(torch.sum),
    reduce_argmax=argmax,
    pad=pad,
    split=split,
    concat=concat,
    stack=stack,
    reshape=reshape,
    slice_by_index=slice_by_index,
    transpose=lambda given: given['x'].permute(numbers(given['perm'])),
    expand_dims=lambda given: given['x'].reshape(expanded(given['x'], numbers(given['axes']))),
    squeeze=lambda given: given['x'].squeeze(
        tuple(range(given['x'].ndim)) if given.get('axes') is None else tuple(numbers(given['axes']))
    ),
    tile=lambda given: tensor(given['x']).repeat(numbers(given['reps'])),
    pixel_shuffle=lambda given: F.pixel_shuffle(given['x'], numbers(given['upscale_factor'])[0]),
    upsample_bilinear=upsample_bilinear,
    upsample_nearest_neighbor=upsample_nearest,
    constexpr_affine_dequantize=dequantise,
)


def expanded(x: Tensor, axes: list[int]) -> list[int]:
    """The shape of a tensor with further axes of size 1."""
    shape = list(x.shape)
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        shape.insert(axis, 1)
    return shape
