"""Executes Core ML files in PyTorch, operator by operator, on systems without Core ML.

The file and its weights are read back with coremltools. This verifies the file, not Apple's kernels.
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
Given = Mapping[str, Any]  # inputs of an operator by name: tensors, NumPy values, lists or None


class MilProgram:
    """A Core ML file, executed in PyTorch.

    Args:
        path (Path): The folder NAME.mlpackage.

    Raises:
        DeploymentError: If it has an unsupported operator.
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
        """Run a batch of images, one by one; returns the outputs by name, with the same first axis.

        Raises:
            DeploymentError: If an operator has unsupported settings.
        """
        found = [self.run_one(torch.from_numpy(batch[index : index + 1])) for index in range(len(batch))]
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]}

    @torch.no_grad()
    def run_one(self, image: Tensor) -> dict[str, np.ndarray]:
        """Run one image, (1, C, H, W); returns the outputs by name."""
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
    """Convert a value to a tensor."""
    return value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))


def numbers(value: Any) -> list[int]:
    """Convert a constant to a list of integers."""
    return [int(x) for x in np.atleast_1d(np.asarray(value))]


def in_float32(function: Callable[..., Any]) -> Callable[..., Tensor]:
    """Wrap a function of tensors to compute in float32 and return the dtype of its first argument."""

    def compute(x, *others):
        return function(x.float(), *(None if part is None else tensor(part).float() for part in others)).to(
            x.dtype
        )

    return compute


def elementwise(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Given], Tensor]:
    """Make an operator with inputs x and y, which broadcast."""
    return lambda given: function(tensor(given['x']), tensor(given['y']))


def unary(function: Callable[[Tensor], Tensor]) -> Callable[[Given], Tensor]:
    """Make an operator with a single input x."""
    return lambda given: in_float32(function)(tensor(given['x']))


def padded(given: Given, x: Tensor, fill: float = 0.0) -> Tensor:
    """Pad maps (N, C, H, W) according to ``pad_type``.

    Raises:
        DeploymentError: If the type of padding is not supported.
    """
    kind = given['pad_type']
    if kind == 'valid':
        return x
    if kind == 'custom':
        top, bottom, left, right = numbers(given['pad'])
        return F.pad(x, (left, right, top, bottom), value=fill)
    raise DeploymentError(f'The padding {kind!r} of Core ML cannot be computed here.')


def conv(given: Given) -> Tensor:
    """2D convolution; weight (outputs, inputs / groups, height, width)."""
    weight, (groups,) = tensor(given['weight']), numbers(given['groups'])
    strides, dilations = numbers(given['strides']), numbers(given['dilations'])

    def compute(x, weight, bias):
        x = padded(given, x)
        return F.conv2d(x, weight, bias, strides, 0, dilations, groups)

    return in_float32(compute)(given['x'], weight, given.get('bias'))


def conv_transpose(given: Given) -> Tensor:
    """2D transposed convolution; weight (inputs, outputs / groups, height, width).

    Raises:
        DeploymentError: If the type of padding is not supported.
    """
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
    """Make a 2D pooling operator, which raises a DeploymentError for partial windows.

    Args:
        function (Callable): PyTorch's pooling.
        fill (float): Value of the padding.
    """

    def compute(given: Given) -> Tensor:
        if given.get('ceil_mode') or (fill == 0 and given.get('exclude_padding_from_average')):
            raise DeploymentError('A pooling of Core ML with partial windows cannot be computed here.')
        sizes, strides = numbers(given['kernel_sizes']), numbers(given['strides'])
        return in_float32(lambda x: function(padded(given, x, fill), sizes, strides))(given['x'])

    return compute


def pad(given: Given) -> Tensor:
    """Pad the last axes with a constant; ``pad`` has (before, after) of each axis, first axis first.

    Raises:
        DeploymentError: If the mode is not constant padding.
    """
    if given['mode'] != 'constant':
        raise DeploymentError(f'The padding {given["mode"]!r} of Core ML cannot be computed here.')
    pairs = np.asarray(given['pad']).reshape(-1, 2)[::-1]
    return F.pad(given['x'], numbers(pairs.reshape(-1)), value=float(given['constant_val']))


def split(given: Given) -> list[Tensor]:
    """Split along an axis, by sizes or into equal parts."""
    sizes, (axis,) = given.get('split_sizes'), numbers(given['axis'])
    if sizes is None:
        return list(given['x'].chunk(numbers(given['num_splits'])[0], axis))
    return list(given['x'].split(numbers(sizes), axis))


def concat(given: Given) -> Tensor:
    """Concatenate along an axis.

    Raises:
        DeploymentError: If ``interleave`` is set.
    """
    if given.get('interleave'):
        raise DeploymentError('Interleaved pieces of Core ML cannot be computed here.')
    return torch.cat([tensor(part) for part in given['values']], numbers(given['axis'])[0])


def stack(given: Given) -> Tensor:
    """Stack along a new axis."""
    return torch.stack([tensor(part) for part in given['values']], numbers(given['axis'])[0])


def reshape(given: Given) -> Tensor:
    """Reshape; 0 keeps the size of an axis, -1 is inferred."""
    x, shape = given['x'], numbers(given['shape'])
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)])


def slice_by_index(given: Given) -> Tensor:
    """Slice from ``begin`` to ``end``; masks select an open end or a single index of an axis.

    Raises:
        DeploymentError: If a stride is negative.
    """
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
    """Make a reduction over ``axes``, by default all of them."""

    def compute(given: Given) -> Tensor:
        x = given['x']
        axes = list(range(x.ndim)) if given.get('axes') is None else numbers(given['axes'])
        return in_float32(lambda x: function(x, axes, bool(given['keep_dims'])))(x)

    return compute


def layer_norm(given: Given) -> Tensor:
    """Layer norm over the last axes.

    Raises:
        DeploymentError: If ``axes`` are not the last ones.
    """
    x, axes = given['x'], numbers(given['axes'])
    shape = [x.shape[axis] for axis in sorted(axis % x.ndim for axis in axes)]
    if sorted(axis % x.ndim for axis in axes) != list(range(x.ndim - len(axes), x.ndim)):
        raise DeploymentError('A norm of Core ML over inner axes cannot be computed here.')
    norm = in_float32(lambda x, gamma, beta: F.layer_norm(x, shape, gamma, beta, float(given['epsilon'])))
    return norm(x, given.get('gamma'), given.get('beta'))


def batch_norm(given: Given) -> Tensor:
    """Batch norm with given statistics."""
    norm = in_float32(
        lambda x, mean, variance, gamma, beta: F.batch_norm(
            x, mean, variance, gamma, beta, False, 0.0, float(given['epsilon'])
        )
    )
    return norm(given['x'], *(given.get(key) for key in ('mean', 'variance', 'gamma', 'beta')))


def matmul(given: Given) -> Tensor:
    """Matrix product; ``transpose_x`` and ``transpose_y`` transpose an input."""
    x, y = tensor(given['x']), tensor(given['y'])
    x = x.transpose(-1, -2) if given.get('transpose_x') else x
    return x @ (y.transpose(-1, -2) if given.get('transpose_y') else y)


def resize(given: Given, x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of maps (N, C, H, W) to a size, with or without aligned corners."""
    aligned = bool(given.get('align_corners'))
    return in_float32(lambda x: F.interpolate(x, size, mode='bilinear', align_corners=aligned))(x)


def scaled(given: Given, x: Tensor) -> tuple[int, int]:
    """Return height and width of maps multiplied by the scale factors of a resize."""
    factors = (given['scale_factor_height'], given['scale_factor_width'])
    height, width = (int(np.floor(side * float(factor) + 1e-4)) for side, factor in zip(x.shape[2:], factors))
    return height, width


def upsample_bilinear(given: Given) -> Tensor:
    """Bilinear resize by factors.

    Raises:
        DeploymentError: If neither ``align_corners`` nor ``half_pixel_centers`` is set.
    """
    x = given['x']
    if not given.get('align_corners') and not given.get('half_pixel_centers', True):
        raise DeploymentError('A resize of Core ML without centred pixels cannot be computed here.')
    return resize(given, x, scaled(given, x))


def upsample_nearest(given: Given) -> Tensor:
    """Nearest resize by integer factors.

    Raises:
        DeploymentError: If a factor is not an integer.
    """
    x = given['x']
    size = scaled(given, x)
    if any(wanted % side for wanted, side in zip(size, x.shape[2:])):
        raise DeploymentError('A nearest resize of Core ML to no multiple cannot be computed here.')
    return F.interpolate(x, size)


def argmax(given: Given) -> Tensor:
    """Index of the largest value along an axis."""
    return given['x'].argmax(numbers(given['axis'])[0], keepdim=bool(given['keep_dims'])).int()


def dequantise(given: Given) -> Tensor:
    """Dequantise 8-bit weights; scale and zero point are per tensor or per channel of an axis."""
    weight, (axis,) = tensor(given['quantized_data']), numbers(given['axis'])
    shape = [-1 if index == axis else 1 for index in range(weight.ndim)]

    def spread(x: Any) -> Tensor:
        x = tensor(x)
        return x.reshape(shape) if x.ndim else x

    zero, scale = spread(given['zero_point']), spread(given['scale'])
    return ((weight.float() - zero.float()) * scale.float()).to(scale.dtype)


def linear(given: Given) -> Tensor:
    """Linear layer; weight (outputs, inputs), bias (outputs,)."""
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
    """Return the shape of a tensor with new axes of size 1."""
    shape = list(x.shape)
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        shape.insert(axis, 1)
    return shape
