"""The gate in Triton, under its interpreter and on a GPU if available, and the operators."""

from importlib.util import find_spec

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmmobilemamba.ops import norm_gate
from mmmobilemamba.ops.backends import AS_OPERATOR

from ..conftest import relative_error
from ..helpers import needs_torch
from .test_triton import interpret

HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32
BOUNDS = {SINGLE: 3e-6, HALF: 2e-3, BRAIN: 1e-2}
FORMATS = ('last', 'first', 'other')
EPS = 1e-5
SHAPES = [(2, 9, 40), (1, 1, 1), (3, 1, 4), (2, 17, 5)]
CASES = [(shape, SINGLE, memory_format) for shape in SHAPES for memory_format in FORMATS]
CASES += [(SHAPES[0], dtype, memory_format) for dtype in (HALF, BRAIN) for memory_format in FORMATS[:2]]
# A row longer than half of the next power of two, the longest row, and sequences of many tiles.
LARGE = [((65, 30, 272), BRAIN, 'last'), ((4, 49, 320), HALF, 'first'), ((2, 3, 4096), SINGLE, 'last')]

needs_operator = pytest.mark.skipif(not AS_OPERATOR, reason='needs torch 2.4')
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')

INTERPRETED = """
from mmmobilemamba.ops.triton import norm_gate
from tests.test_ops.test_triton_norm_gate import CASES, check
# Several tiles, and several for each program.
norm_gate.FORWARD = norm_gate.BACKWARD = (128, 16)
norm_gate.LEAST_STEPS, norm_gate.PROGRAMS = 4, 3
for case in CASES:
    check(norm_gate, *case, 'cpu')
"""


def arguments(shape, dtype, memory_format):
    """y, weight, bias, and z as the second half of a wider tensor."""
    batch, length, channels = shape
    generator = torch.Generator().manual_seed(0)
    y, wide = (torch.randn(batch, length, size, generator=generator) for size in (channels, 2 * channels))
    weight, bias = torch.randn(2, channels, generator=generator)
    wide = 3 * wide.to(dtype)
    if memory_format == 'last':
        z = wide[..., channels:]
    elif memory_format == 'first':
        z = wide.mT.contiguous().mT[..., channels:]
    else:
        z = wide[..., ::2]
    return y + 2, weight, bias, z


def check(kernels, shape, dtype, memory_format, device):
    """Check output and gradients against float64, and that gradients are deterministic."""
    given = arguments(shape, dtype, memory_format)
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    y, weight, bias, z = exact_args = [x.double().requires_grad_() for x in given]
    exact = norm_gate(y, weight, bias, EPS, z, 'torch')
    exact.backward(grad.double())
    y, weight, bias = (x.to(device) for x in given[:3])
    z = torch.empty_strided(shape, given[3].stride(), dtype=dtype, device=device).copy_(given[3])
    out = kernels.norm_gate(y, weight, bias, EPS, z)
    assert out.dtype == dtype and out.is_contiguous()
    assert relative_error(out.cpu(), exact.detach()) < BOUNDS[dtype]
    grads, again = (kernels.norm_gate_backward(grad.to(device), y, weight, bias, EPS, z) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(grads, again))
    assert (grads[3].mT if memory_format == 'first' else grads[3]).is_contiguous()
    for found, expected, bound in zip(grads, exact_args, (3e-6, 3e-6, 3e-6, BOUNDS[dtype])):
        assert found.dtype == (dtype if expected is exact_args[3] else SINGLE)
        scale = max(expected.grad.abs().max().item(), 1e-3)
        assert (found.cpu().double() - expected.grad).abs().max().item() < bound * scale, shape


@needs_torch('2.12')
def test_interpreted():
    interpret(INTERPRETED)


@needs_gpu
@pytest.mark.parametrize(('shape', 'dtype', 'memory_format'), CASES[:3] + CASES[-4:] + LARGE)
def test_on_a_gpu(shape, dtype, memory_format):
    from mmmobilemamba.ops.triton import norm_gate

    check(norm_gate, shape, dtype, memory_format, 'cuda')


@needs_gpu
def test_large_gates_on_a_gpu():
    """The gate is fully open or closed if exp overflows."""
    y, weight, bias, _ = (x.cuda() for x in arguments((1, 4, 8), SINGLE, 'last'))
    z = torch.tensor([-1e4, -100.0, 100.0, 1e4], device='cuda').view(1, 4, 1).repeat(1, 1, 8)
    found = norm_gate(y, weight, bias, EPS, z, 'triton')
    torch.testing.assert_close(found, norm_gate(y, weight, bias, EPS, z, 'torch'), rtol=1e-5, atol=1e-30)


OPERATORS = [('last', SINGLE), ('first', SINGLE), ('other', SINGLE), ('last', BRAIN)]


def opcheck(device, cases=OPERATORS):
    operator = torch.ops.mmmobilemamba.norm_gate.default
    for memory_format, dtype in cases:
        y, weight, bias, z = (x.to(device) for x in arguments((2, 7, 6), dtype, memory_format))
        torch.library.opcheck(operator, (y, weight, bias, EPS, z))
        backward = torch.ops.mmmobilemamba.norm_gate_backward.default
        torch.library.opcheck(backward, (torch.ones_like(z), y, weight, bias, EPS, z))
        y, weight, bias, z = (x.detach().requires_grad_() for x in (y, weight, bias, z))
        torch.library.opcheck(operator, (y, weight, bias, EPS, z))


@needs_operator
def test_opcheck():
    opcheck('cpu')


@needs_gpu
@pytest.mark.parametrize('case', [OPERATORS[1], OPERATORS[3]])
def test_opcheck_on_a_gpu(case):
    opcheck('cuda', [case])


@needs_operator
@pytest.mark.parametrize('dtype', [SINGLE, BRAIN])
def test_operator_on_a_cpu(dtype):
    """Results and gradients equal those of the form in PyTorch."""
    results = []
    for run in (torch.ops.mmmobilemamba.norm_gate, lambda *args: norm_gate(*args, 'torch')):
        y, weight, bias, z = (x.clone().requires_grad_() for x in arguments((2, 7, 6), dtype, 'last'))
        out = run(y, weight, bias, EPS, z)
        out.sin().sum().backward()
        results.append((out.detach(), y.grad, weight.grad, bias.grad, z.grad))
    for one, other in zip(*results):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other)


@needs_operator
def test_gradients():
    args = [x.double().contiguous().requires_grad_() for x in arguments((2, 3, 4), SINGLE, 'last')]
    operator = torch.ops.mmmobilemamba.norm_gate
    assert torch.autograd.gradcheck(lambda y, weight, bias, z: operator(y, weight, bias, EPS, z), args)


@needs_operator
def test_no_second_derivative():
    y, weight, bias, z = (x.requires_grad_() for x in arguments((2, 3, 4), SINGLE, 'last'))
    out = torch.ops.mmmobilemamba.norm_gate(y, weight, bias, EPS, z)
    (grad,) = torch.autograd.grad(out.square().sum(), y, create_graph=True)
    with pytest.raises(RuntimeError, match=r"no second derivative.*backend='torch'"):
        torch.autograd.grad(grad.sum(), y)


@needs_operator
def test_shapes():
    y, weight, bias, z = arguments((2, 3, 4), SINGLE, 'last')
    with pytest.raises(ValueError, match=r'must have one shape \(N, L, E\).*\(2, 3, 4\), \(1, 3, 4\)'):
        torch.ops.mmmobilemamba.norm_gate(y, weight, bias, EPS, z[:1])


@needs_operator
def test_compiled_as_one_graph(monkeypatch):
    module = __import__('mmmobilemamba.ops.norm_gate', fromlist=['norm_gate'])
    monkeypatch.setattr(module, 'uses_triton', lambda *args: True)
    compiled = torch.compile(norm_gate, fullgraph=True, backend='aot_eager')
    results = []
    for run in (norm_gate, compiled):
        y, weight, bias, z = (x.clone().requires_grad_() for x in arguments((2, 7, 6), SINGLE, 'last'))
        out = run(y, weight, bias, EPS, z)
        out.square().sum().backward()
        results.append((out.detach(), y.grad, weight.grad, bias.grad, z.grad))
    for one, other in zip(*results):
        torch.testing.assert_close(one, other)


@needs_operator
@pytest.mark.skipif(find_spec('triton') is None, reason='needs Triton')
@needs_torch('2.12')
def test_chosen_for_tensors_on_a_gpu():
    """For fake tensors, which have a device but no memory."""
    with FakeTensorMode():
        for channels, expected in ((4096, 'mmmobilemamba_norm_gate'), (4097, 'MulBackward')):
            y = torch.empty(1, 2, channels, device='cuda', requires_grad=True)
            weight = torch.empty(channels, device='cuda')
            out = norm_gate(y, weight, weight, EPS, y.detach().bfloat16())
            assert expected in type(out.grad_fn).__name__
