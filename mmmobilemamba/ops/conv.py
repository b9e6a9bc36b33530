"""2D convolution with what follows it: an activation and a shortcut.

On a CPU, where no gradient is needed, pointwise, 3 x 3 and depthwise convolutions of channels-last maps run
in C++: PyTorch leaves those of few images to slower code, and oneDNN puts the weights in another order at
every call, which on maps as small as these takes as long as the convolution.

On a GPU, depthwise convolutions of channels-last maps run in Triton: in float32, for which cuDNN has no
kernels in this memory format, and in inference, with what follows them. In training in half precision cuDNN
is as fast.
"""

import ctypes
from functools import partial
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .cpu import can_run, has_vectors, is_watched, run
from .maps import Map, as_map, evenly_spaced
from .selective_scan import WITH_CPP, check_backend, uses_triton
from .triton.depthwise_operator import DepthwiseConv, depthwise_conv, depthwise_conv_act

ACTIVATIONS = dict(relu=partial(F.relu, inplace=True), silu=F.silu)
NUMBERS = {name: number for number, name in enumerate((None, *ACTIVATIONS))}  # as in cpu/csrc/conv.h
DEPTHWISE_SIDES = (3, 5, 7)
STRIDES = (1, 2)
FEWEST_CHANNELS = 16  # of the output: the numbers of a vector
FEW_IMAGES, FEW_PIXELS = 16, 4  # for PyTorch's pointwise convolution
EIGHT = 8  # channels that tensor cores take at once in half precision


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    stride: int = 1,
    groups: int = 1,
    activation: Optional[str] = None,
    shortcut: Optional[Tensor] = None,
    backend: str = 'auto',
) -> Tensor:
    """``activation(conv(x) + bias) + shortcut``, with the padding that keeps the size at stride 1.

    Args:
        x (Tensor): (N, C, H, W).
        weight (Tensor): (O, C / groups, k, k), k odd. In the layout of :func:`lay_out` it need not be copied.
        bias (Tensor, optional): (O).
        stride (int): Of rows and columns. Defaults to 1.
        groups (int): Defaults to 1.
        activation (str, optional): ``'relu'`` or ``'silu'``.
        shortcut (Tensor, optional): (N, O, ceil(H / stride), ceil(W / stride)).
        backend (str): Of :func:`~mmmobilemamba.ops.selective_scan`. ``'auto'`` and ``'cpp'`` allow C++, which
            is taken where no gradient is needed, on a CPU with AVX2, in channels-last, in float32 and not
            under autocast, to 16 channels or more: for pointwise convolutions, for those of 3 x 3 pixels of
            whole maps (no slices of channels) whose weights are laid out already, and for depthwise ones of
            common sides and strides. ``'auto'`` and ``'triton'`` allow Triton, see
            :func:`depthwise_conv2d`; activation and shortcut are part of its kernel where no gradient is
            needed.

    Returns:
        Tensor: (N, O, ceil(H / stride), ceil(W / stride)).

    Raises:
        ValueError: If the activation or the backend does not exist, or the shortcut has another shape.
        RuntimeError: If map, weight and bias do not fit.
    """
    check_backend(backend)
    if activation not in NUMBERS:
        raise ValueError(f'activation must be None or one of {sorted(ACTIVATIONS)}, not {activation!r}.')
    if can_use_triton(x, weight, bias, stride, groups, backend):
        return conv2d_triton(x, weight, bias, stride, activation, shortcut)
    if wants_padding(x, weight, groups):
        return follow(padded_conv(x, weight, bias, stride), activation, shortcut)
    watched = is_watched()  # before sizes are looked at, which whoever watches would take for a condition
    if backend in WITH_CPP and not watched and not autocasts():
        kernel = find_kernel(x, weight, stride, groups)
        others = [tensor for tensor in (bias, shortcut) if tensor is not None]
        fits = bias is None or bias.shape == weight.shape[:1]
        if kernel and fits and can_run(x, weight, *others):
            return conv2d_cpp(kernel, x, weight, bias, stride, activation, shortcut)
    if x.is_cpu and not watched and groups == 1 and weight.shape[2] == 1 and stride == 1 and x.ndim == 4:
        x = pointwise_conv(x, weight, bias)
    else:
        x = F.conv2d(x, weight, bias, stride, weight.shape[2] // 2, groups=groups)
    return follow(x, activation, shortcut)


def depthwise_conv2d(
    x: Tensor, weight: Tensor, bias: Optional[Tensor] = None, stride: int = 1, backend: str = 'auto'
) -> Tensor:
    """Depthwise convolution with the padding that keeps the size at stride 1.

    Args:
        x (Tensor): (N, C, H, W).
        weight (Tensor): (C, 1, k, k), k odd.
        bias (Tensor, optional): (C).
        stride (int): Of rows and columns. Defaults to 1.
        backend (str): Of :func:`~mmmobilemamba.ops.selective_scan`. ``'auto'`` and ``'triton'`` allow Triton,
            which is taken where the scan can run in it, for two channels or more in channels-last (slices of
            channels too), for k of 3, 5 or 7, strides of 1 or 2, and float32; float16 and bfloat16 only where
            no gradient is needed. Under autocast it computes in the dtype of autocast, as PyTorch does.
            Everything else is PyTorch's.

    Returns:
        Tensor: (N, C, ceil(H / stride), ceil(W / stride)).

    Raises:
        ValueError: If the backend does not exist.
        RuntimeError: If map, weight and bias do not fit.
    """
    check_backend(backend)
    groups = weight.shape[0]
    if can_use_triton(x, weight, bias, stride, groups, backend):
        return conv2d_triton(x, weight, bias, stride, None, None)
    return F.conv2d(x, weight, bias, stride, weight.shape[2] // 2, groups=groups)


def can_use_triton(x, weight, bias, stride, groups, backend):
    """Whether :func:`conv2d` of such tensors runs in Triton (bool)."""
    if not x.is_cuda or x.ndim != 4 or groups == 1 or groups != x.shape[1] or x.stride(1) != 1:
        return False
    side = weight.shape[-1]
    if side not in DEPTHWISE_SIDES or stride not in STRIDES or weight.shape != (groups, 1, side, side):
        return False
    if bias is not None and bias.shape != (groups,):
        return False
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if not uses_triton(backend, *tensors) or (is_watched() and not torch.compiler.is_compiling()):
        return False  # modes and transforms know PyTorch's convolution; a compiler takes an operator, too
    if torch.is_autocast_enabled('cuda'):
        return not learns(*tensors)
    return all(tensor.dtype == x.dtype for tensor in tensors) and (
        x.dtype == torch.float32 or not learns(*tensors)
    )


def learns(*tensors):
    """Whether gradients are needed of something that is computed from these tensors (bool)."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def conv2d_triton(x, weight, bias, stride, activation, shortcut):
    """:func:`conv2d` in Triton, where :func:`can_use_triton`."""
    if torch.is_autocast_enabled('cuda'):  # the kernels round weights to the dtype of the map
        x = x.to(torch.get_autocast_dtype('cuda'))
    tensors = [tensor for tensor in (x, weight, bias, shortcut) if tensor is not None]
    if not learns(*tensors) and (shortcut is None or shortcut.dtype == x.dtype):
        if shortcut is not None:
            check_shortcut(shortcut, (*x.shape[:2], *((side - 1) // stride + 1 for side in x.shape[2:])))
        return depthwise_conv_act(x, weight, bias, stride, activation, shortcut)
    # Past the library, which takes some 15 us a call, where no compiler has to see an operator.
    run = depthwise_conv if torch.compiler.is_compiling() else DepthwiseConv.apply
    return follow(run(x, weight, bias, stride), activation, shortcut)


def wants_padding(x, weight, groups):
    """Whether to add channels of zeros for the tensor cores of a GPU (bool).

    They take channels in multiples of 8; for others, such as those of the stem, cuDNN copies what a
    convolution reads and writes. A compiler makes the padding part of what comes before it.
    """
    if not (x.is_cuda and torch.compiler.is_compiling()) or groups > 1 or weight.shape[2] == 1:
        return False
    dtype = torch.get_autocast_dtype('cuda') if torch.is_autocast_enabled('cuda') else x.dtype
    is_half = dtype in (torch.float16, torch.bfloat16)
    return is_half and x.stride(1) == 1 and any(channels % EIGHT for channels in weight.shape[:2])


def padded_conv(x, weight, bias, stride):
    """``F.conv2d`` with channels of zeros up to multiples of 8, which are left out of the result."""
    outputs, inputs, side = weight.shape[:3]
    x = F.pad(x, (0, 0, 0, 0, 0, -inputs % EIGHT))
    padded = F.pad(weight, (0, 0, 0, 0, 0, -inputs % EIGHT, 0, -outputs % EIGHT))
    out = F.conv2d(x, padded, None, stride, side // 2)[:, :outputs]
    return out if bias is None else out + bias.view(1, -1, 1, 1).to(out.dtype)


def pointwise_conv(x, weight, bias):
    """``F.conv2d`` with all pixels as 16 or more images of one row, where that is a view and saves time.

    With fewer images PyTorch leaves a pointwise convolution on a CPU to a matrix product, which is slower,
    most of all in backward.

    Args:
        x (Tensor): (N, C, H, W).
        weight (Tensor): (O, C, 1, 1).
        bias (Tensor | None): (O).

    Returns:
        Tensor: (N, O, H, W).
    """
    batch, channels, height, width = x.shape
    pixels = batch * height * width
    images = next((n for n in range(FEW_IMAGES, pixels // FEW_PIXELS + 1) if pixels % n == 0), None)
    if batch >= FEW_IMAGES or images is None or x.stride(1) != 1 or evenly_spaced(x) is None:
        return F.conv2d(x, weight, bias)
    rows = x.permute(0, 2, 3, 1).reshape(images, 1, pixels // images, channels)
    out = F.conv2d(rows.permute(0, 3, 1, 2), weight, bias)
    return out.permute(0, 2, 3, 1).reshape(batch, height, width, -1).permute(0, 3, 1, 2)


def follow(x, activation, shortcut):
    """``activation(x) + shortcut`` of the shape of ``x``, where either may be None; may change ``x``.

    Raises:
        ValueError: If the shortcut has another shape.
    """
    if activation is not None:
        x = ACTIVATIONS[activation](x)
    if shortcut is None:
        return x
    check_shortcut(shortcut, x.shape)
    return shortcut + x


def check_shortcut(shortcut, shape):
    """Make sure that a shortcut has the shape of the output.

    Raises:
        ValueError: If it has not.
    """
    if shortcut.shape != shape:
        raise ValueError(
            f'shortcut must have the shape {tuple(shape)} of the output, not {tuple(shortcut.shape)}.'
        )


def lay_out(weight):
    """Weights (O, C / groups, k, k) in the layout that the kernels read: output channels side by side.

    Where there are no kernels, in PyTorch's own. On GPUs those are kernels of depthwise convolutions.
    """
    has_kernels = (weight.is_cpu and has_vectors()) or (weight.is_cuda and weight.shape[1] == 1)
    if not has_kernels:
        return weight.contiguous()
    return weight.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)


def kernel_of(weight, stride, groups):
    """The kernel for convolutions with such a weight, (O, C / groups, k, k): a name, or None."""
    if weight.ndim != 4 or weight.shape[2] != weight.shape[3] or weight.shape[0] < FEWEST_CHANNELS:
        return None
    outputs, inputs, side = weight.shape[:3]
    if groups == 1 and side == 1 and stride == 1:
        return 'pointwise'
    if groups == 1 and side == 3 and stride in STRIDES:
        return 'spatial'
    fits = side in DEPTHWISE_SIDES and stride in STRIDES
    return 'depthwise' if groups == outputs and inputs == 1 and fits else None


def find_kernel(x, weight, stride, groups):
    """Name of the kernel for such tensors, (N, C, H, W) and (O, C / groups, k, k), or None."""
    kernel = kernel_of(weight, stride, groups)
    if kernel is None or not x.is_cpu or x.dtype != torch.float32 or not has_vectors():
        return None
    if x.ndim != 4 or x.shape[1] != weight.shape[1] * groups or x.stride(1) != 1 or x.numel() == 0:
        return None
    if kernel == 'spatial':  # whose weight takes longer to lay out than is gained
        suits = weight.permute(2, 3, 1, 0).is_contiguous() and evenly_spaced(x) == x.shape[1]
    else:
        suits = kernel == 'depthwise' or evenly_spaced(x) is not None
    return kernel if suits else None


if hasattr(torch.amp, 'is_autocast_available'):  # since PyTorch 2.4, as is the argument

    def autocasts():
        """Whether autocast is on for CPUs, under which convolutions run in its type."""
        return torch.is_autocast_enabled('cpu')

else:
    autocasts = torch.is_autocast_cpu_enabled


class Conv(ctypes.Structure):
    """As in cpu/csrc/conv.h."""

    _fields_ = [
        ('map', Map),
        *((name, ctypes.c_int64) for name in ('out_channels', 'kernel', 'stride', 'activation')),
        *((name, ctypes.c_void_p) for name in ('weight', 'bias', 'shortcut')),
    ]


class Call:
    """A call of a kernel, made for maps of one shape and memory layout and ready for any of them.

    Args:
        kernel (str): What :func:`find_kernel` gives for these tensors.
        x, weight, bias, stride, activation: As in :func:`conv2d`. The call holds the weights.
    """

    def __init__(self, kernel, x, weight, bias, stride, activation):
        batch, _, height, width = x.shape
        channels, _, side, _ = weight.shape
        rows, columns = -(-height // stride), -(-width // stride)
        self.kernel = kernel
        self.size = (batch, channels, rows, columns)
        self.strides = (rows * columns * channels, 1, columns * channels, channels)
        self.weight = weight.permute(2, 3, 1, 0).contiguous()
        self.bias = bias if bias is None else bias.contiguous()
        source = as_map(x, evenly_spaced(x))
        pointers = self.weight.data_ptr(), None if bias is None else self.bias.data_ptr()
        self.conv = Conv(source, channels, side, stride, NUMBERS[activation], *pointers)

    def __call__(self, x, shortcut=None, instruction_set=None):
        """The output, (N, O, H', W'), in channels-last.

        Args:
            x (Tensor): Of the shape, strides and type that the call was made for, which is not checked.
            shortcut (Tensor, optional): Of the shape of the output.
            instruction_set (str, optional): See :func:`~.cpu.run`.

        Raises:
            ValueError: If the shortcut has another shape.
            MemoryError: If there is none left.
        """
        conv = Conv.from_buffer_copy(self.conv)  # one for each thread that is here
        conv.map.data = x.data_ptr()
        if shortcut is not None:
            check_shortcut(shortcut, self.size)
            if shortcut.stride() != self.strides:
                shortcut = shortcut.permute(0, 2, 3, 1).contiguous()
            conv.shortcut = shortcut.data_ptr()
        out = x.new_empty_strided(self.size, self.strides)
        run(self.kernel, ctypes.byref(conv), out.data_ptr(), dtype=x.dtype, instruction_set=instruction_set)
        return out


def conv2d_cpp(kernel, x, weight, bias, stride, activation, shortcut, instruction_set=None):
    """:func:`conv2d` in C++, without gradients.

    Args:
        kernel (str): What :func:`find_kernel` gives for these tensors.
        instruction_set (str, optional): One of ``INSTRUCTION_SETS`` up to the best of this machine, for
            tests. Defaults to the best.
    """
    return Call(kernel, x, weight, bias, stride, activation)(x, shortcut, instruction_set)
