"""The Haar transform in Triton, under its interpreter and on a GPU if available, and the operators."""

from importlib.util import find_spec

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmmobilemamba.ops import haar, haar_dwt, haar_idwt
from mmmobilemamba.ops.backends import AS_OPERATOR, uses_triton

from ..conftest import noise_for, relative_error
from ..helpers import needs_torch
from .test_triton import interpret

HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32
BOUNDS = {SINGLE: 1e-6, HALF: 2e-3, BRAIN: 1e-2}
# The last one has several tiles and an odd number of channels.
SHAPES = [(2, 16, 8, 6), (3, 6, 7, 5), (2, 1, 1, 4), (2, 8, 1, 1), (2, 7, 17, 18)]
TYPES = [(SINGLE, SINGLE), (BRAIN, BRAIN), (HALF, HALF), (BRAIN, SINGLE), (SINGLE, HALF)]
CASES = [(shape, SINGLE, SINGLE) for shape in SHAPES[1:]]
CASES += [(SHAPES[0], *dtypes) for dtypes in TYPES]
FORMATS = (True, False)  # channels-last or not
# Each case is compiled separately; dtypes only differ in loads and stores.
ON_A_GPU = [(shape, SINGLE, SINGLE, is_last) for shape in (SHAPES[1], SHAPES[-1]) for is_last in FORMATS]
ON_A_GPU += [(SHAPES[0], *dtypes, True) for dtypes in TYPES[1:]] + [(SHAPES[0], BRAIN, BRAIN, False)]

needs_operator = pytest.mark.skipif(not AS_OPERATOR, reason='needs torch 2.4')
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')

INTERPRETED = """
from mmmobilemamba.ops.triton import haar
from tests.test_ops.test_triton_haar import CASES, FORMATS, check
haar.TILE = 256  # several tiles of small maps
for case in CASES:
    for is_last in FORMATS:
        check(haar, *case, is_last, 'cpu')
"""


def slice_of(shape, dtype, is_last, salt):
    """The second half of the channels of a wider map."""
    batch, channels, height, width = shape
    wide = noise_for((batch, 2 * channels, height, width), salt).to(dtype)
    wide = wide.contiguous(memory_format=torch.channels_last if is_last else torch.contiguous_format)
    return wide[:, channels:]


def expect(found, exact, dtype):
    assert found.dtype == dtype
    assert relative_error(found.cpu(), exact) < BOUNDS[dtype], (found.shape, dtype)


def check(kernels, shape, dtype, base_dtype, is_last, device):
    """Check both transforms and their gradients against float64."""
    x, base = slice_of(shape, dtype, is_last, 0), slice_of(shape, base_dtype, is_last, 1)
    exact_x, exact_base = (tensor.double().requires_grad_() for tensor in (x, base))
    exact_bands = haar_dwt(exact_x, 'torch')
    bands = kernels.haar_dwt(x.to(device))
    expect(bands, exact_bands.detach(), dtype)
    assert is_last == (bands.stride(1) == 1) or bands[0, 0].numel() == 1
    wider = kernels.haar_dwt(x.to(device), base_dtype)
    expect(wider, exact_bands.detach(), base_dtype)

    given = bands.detach().cpu().double().requires_grad_()
    exact = haar_idwt(given, exact_base, 'torch')
    promoted = torch.promote_types(dtype, base_dtype)
    for memory_format in (torch.channels_last, torch.contiguous_format):
        same = bands.contiguous(memory_format=memory_format)
        out = kernels.haar_idwt(same, base.to(device))
        expect(out, exact.detach(), promoted)
    assert is_last == (out.stride(1) == 1) or out[0, 0].numel() == 1

    grad_bands, grad = noise_for(bands.shape, 2).to(dtype), noise_for(out.shape, 3).to(promoted)
    exact_bands.backward(grad_bands.double())
    exact.backward(grad.double())
    expect(kernels.haar_idwt(grad_bands.to(device), None, shape[2:], dtype), exact_x.grad, dtype)
    expect(kernels.haar_dwt(grad.to(device), dtype), given.grad, dtype)


@needs_torch('2.4')
def test_interpreted():
    interpret(INTERPRETED)


@needs_gpu
@pytest.mark.parametrize('case', ON_A_GPU)
def test_on_a_gpu(case):
    from mmmobilemamba.ops.triton import haar

    check(haar, *case, 'cuda')


@needs_gpu
def test_many_images_on_a_gpu():
    """More programs than run concurrently; gradients equal those of the operators."""
    wide = noise_for((256, 40, 14, 14), 0).cuda().contiguous(memory_format=torch.channels_last)
    grads = []
    for backend in ('triton', 'torch'):
        x = wide.clone().requires_grad_()
        haar_idwt(haar_dwt(x[:, :32], backend).square(), x[:, 8:], backend).square().mean().backward()
        grads.append(x.grad)
    assert relative_error(grads[0].cpu(), grads[1].cpu()) < 1e-5


def operator_cases(device, formats=FORMATS):
    """Arguments of the operators: memory formats, mixed dtypes, and without a base."""
    operators = torch.ops.mmmobilemamba
    for is_last in formats:
        x, base = (slice_of((2, 6, 7, 5), SINGLE, is_last, salt).to(device) for salt in (0, 1))
        bands = haar_dwt(x, 'torch')
        yield operators.haar_dwt.default, (x, SINGLE)
        yield operators.haar_dwt.default, (x.to(BRAIN), SINGLE)
        yield operators.haar_idwt.default, (bands, base, 7, 5, SINGLE)
        yield operators.haar_idwt.default, (bands.to(BRAIN), base, 7, 5, SINGLE)
        yield operators.haar_idwt.default, (bands.contiguous(), None, 7, 5, SINGLE)


def opcheck(device, formats=FORMATS):
    for operator, args in operator_cases(device, formats):
        torch.library.opcheck(operator, args)
        args = [x.detach().requires_grad_() if torch.is_tensor(x) else x for x in args]
        torch.library.opcheck(operator, args)


@needs_operator
def test_opcheck():
    opcheck('cpu')


@needs_gpu
@pytest.mark.parametrize('is_last', FORMATS)
def test_opcheck_on_a_gpu(is_last):
    opcheck('cuda', [is_last])


@needs_operator
def test_operators_on_a_cpu():
    for is_last in FORMATS:
        x, base = (slice_of((2, 3, 5, 4), SINGLE, is_last, salt).double() for salt in (0, 1))
        bands = torch.ops.mmmobilemamba.haar_dwt(x, x.dtype)
        assert torch.equal(bands, haar_dwt(x, 'torch'))
        found = torch.ops.mmmobilemamba.haar_idwt(bands, base, 5, 4, x.dtype)
        assert torch.equal(found, haar_idwt(bands, base, 'torch'))
        assert (bands.stride(1) == 1) == (found.stride(1) == 1) == is_last


@needs_operator
def test_derivatives_of_any_order():
    def transform(x, base):
        bands = torch.ops.mmmobilemamba.haar_dwt(x, x.dtype)
        return torch.ops.mmmobilemamba.haar_idwt(bands.square(), base, 3, 4, x.dtype)

    args = [torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(transform, args)
    assert torch.autograd.gradgradcheck(transform, args)


@needs_operator
def test_gradients_have_the_types_of_the_inputs():
    bands = torch.randn(1, 8, 2, 2).bfloat16().requires_grad_()
    base = torch.randn(1, 2, 4, 3, requires_grad=True)
    torch.ops.mmmobilemamba.haar_idwt(bands, base, 4, 3, SINGLE).sum().backward()
    assert (bands.grad.dtype, base.grad.dtype) == (BRAIN, SINGLE)
    assert torch.equal(base.grad, torch.ones_like(base))


@needs_operator
@pytest.mark.parametrize('args', [((1, 8, 2, 1), (1, 2, 4, 4)), ((1, 7, 2, 2), (1, 2, 4, 4))])
def test_bands_of_another_map(args):
    bands, base = (torch.zeros(shape) for shape in args)
    with pytest.raises(ValueError, match=r'bands must have shape \(1, 8, 2, 2\) beside base of'):
        torch.ops.mmmobilemamba.haar_idwt(bands, base, 4, 4, SINGLE)


@needs_operator
def test_compiled_as_one_graph(monkeypatch):
    monkeypatch.setattr(haar, 'uses_triton', lambda *args: True)

    def transform(x, base):
        return haar_idwt(haar_dwt(x).tanh(), base)

    compiled = torch.compile(transform, fullgraph=True, backend='aot_eager')
    results = []
    for run in (transform, compiled):
        x, base = (slice_of((2, 6, 7, 5), SINGLE, True, salt).requires_grad_() for salt in (0, 1))
        y = run(x, base)
        y.square().sum().backward()
        results.append((y.detach(), x.grad, base.grad))
    for one, other in zip(*results):
        torch.testing.assert_close(one, other)


@needs_operator
@pytest.mark.skipif(find_spec('triton') is None, reason='needs Triton')
@needs_torch('2.12')
def test_chosen_for_tensors_on_a_gpu():
    """For fake tensors, which have a device but no memory."""
    with FakeTensorMode():
        x = torch.empty(2, 6, 7, 5, device='cuda')
        for other, expected in ((x, True), (x.bfloat16(), True), (x.double(), False), (x.cpu(), False)):
            for backend in ('auto', 'triton'):
                assert uses_triton(backend, other) == expected
                assert uses_triton(backend, x, other) == expected
        assert not uses_triton('torch', x)
        assert haar_dwt(x).is_contiguous()  # the operator keeps the memory format
        assert haar_dwt(x, 'torch').stride(1) == 1
        assert haar_idwt(haar_dwt(x.bfloat16()), x).dtype == SINGLE
