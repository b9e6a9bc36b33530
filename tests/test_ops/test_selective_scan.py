"""The scan: the naive form against the equations, every other form against the naive one."""

import re
from functools import partial

import numpy as np
import pytest
import torch

from mmmobilemamba.ops import available_backends, backends, select_backend, selective_scan
from mmmobilemamba.ops.selective_scan import chunked

from ..conftest import relative_error
from ..helpers import NAMES, arguments, needs_torch

FAST = tuple(name for name in available_backends() if name not in ('naive', 'export'))
LENGTHS = (1, 2, 3, 7, 64, 196, 1023, 4200)


def triple_loop(u, x_dbl, dt_weight, A, D, dt_bias):
    """The equations in NumPy, one number at a time."""
    u, x_dbl, dt_weight, A, D, dt_bias = (x.numpy() for x in (u, x_dbl, dt_weight, A, D, dt_bias))
    y = np.zeros_like(u)
    batch, length, channels = u.shape
    for n in range(batch):
        for e in range(channels):
            for k in range(2):
                h = 0.0
                for step in range(length):
                    t = step if k == 0 else length - 1 - step
                    *step, B, C = x_dbl[n, t, k]
                    delta = np.log1p(np.exp(np.dot(step, dt_weight[k, e]) + dt_bias[k, e]))
                    h = np.exp(delta * A[k, e]) * h + delta * B * u[n, t, e]
                    y[n, t, e] += C * h + D[k, e] * u[n, t, e]
    return y


@pytest.mark.parametrize('length', [1, 2, 3, 17, 64])
@pytest.mark.parametrize('backend', available_backends())
def test_against_the_equations(backend, length):
    args = arguments(2, length, 3)
    assert relative_error(selective_scan(*args, backend=backend), triple_loop(*args)) < 1e-12
    single = selective_scan(*(x.float() for x in args), backend=backend)
    assert single.dtype == torch.float32
    assert relative_error(single, triple_loop(*args)) < 1e-5


@pytest.mark.parametrize('batch', [1, 2, 3, 4])
@pytest.mark.parametrize('length', LENGTHS)
def test_fast_backends_equal_naive(length, batch):
    args = arguments(batch, length, 6, torch.float32)
    exact = selective_scan(*(x.double() for x in args), backend='naive')
    for backend in FAST:
        assert relative_error(selective_scan(*args, backend=backend), exact) < 1e-5


@torch.no_grad()
def test_torch_is_recorded_for_any_batch(monkeypatch):
    """A graph must not split the batch, because the number of parts would be fixed."""
    monkeypatch.setattr(chunked, 'AT_ONCE', 1)
    args, more = arguments(2, 20, 6), arguments(5, 20, 6, seed=1)

    def scan(*args):
        return selective_scan(*args, backend='torch')

    traced = torch.jit.trace(scan, args, check_trace=False)
    assert relative_error(traced(*more), scan(*more)) < 1e-12


@needs_torch('2.12')  # the first tested version that can pad empty tensors
def test_torch_of_nothing(monkeypatch):
    monkeypatch.setattr(chunked, 'AT_ONCE', 1)
    args = arguments(2, 20, 6)
    empty = (x[:, :, :0] if x is args[0] else x[:, :0] if x.ndim < 4 else x for x in args)
    assert selective_scan(*empty, backend='torch').numel() == 0


@torch.no_grad()
@pytest.mark.parametrize('length', [9, 40])
def test_torch_without_gradients(monkeypatch, length):
    """It computes in place and in parts of the batch, but does not modify inputs."""
    monkeypatch.setattr(chunked, 'AT_ONCE', 2 * length * 6)
    args = arguments(5, length, 6)
    before = [x.clone() for x in args]
    found = selective_scan(*args, backend='torch')
    assert relative_error(found, selective_scan(*args, backend='naive')) < 1e-12
    assert all(torch.equal(x, y) for x, y in zip(args, before))


@pytest.mark.parametrize('length', LENGTHS)
@pytest.mark.parametrize(('dtype', 'bound'), [(torch.bfloat16, 1e-5), (torch.float16, 1e-5)])
def test_half_inputs_are_scanned_in_float32(length, dtype, bound):
    args = arguments(2, length, 6, dtype)
    exact = selective_scan(*(x.double() for x in args), backend='naive')
    for backend in FAST:
        found = selective_scan(*args, backend=backend)
        assert found.dtype == torch.float32
        assert relative_error(found, exact) < bound


@pytest.mark.parametrize('length', [1, 7, 64, 196, 300])
def test_gradients_equal_naive(length):
    def gradients(backend):
        args = [x.requires_grad_() for x in arguments(2, length, 5)]
        weight = torch.linspace(-1, 1, length * 10, dtype=torch.float64).view(2, length, 5)
        (selective_scan(*args, backend=backend) * weight).sum().backward()
        return [x.grad for x in args]

    exact = gradients('naive')
    for backend in FAST:
        for name, found, expected in zip(NAMES, gradients(backend), exact):
            what = f'{backend}, {name}: '
            torch.testing.assert_close(
                found, expected, rtol=1e-9, atol=1e-11, msg=lambda text, what=what: what + text
            )


@pytest.mark.parametrize('backend', FAST)
@pytest.mark.parametrize('length', [1, 5, 9, 35])
def test_gradcheck(length, backend):
    args = [x.requires_grad_() for x in arguments(1, length, 2)]
    scan = partial(selective_scan, backend=backend)
    assert torch.autograd.gradcheck(scan, args, eps=1e-6, atol=1e-5, rtol=1e-3, fast_mode=False)


def test_gradgradcheck():
    args = [x.requires_grad_() for x in arguments(1, 18, 2)]
    scan = partial(selective_scan, backend='torch')
    assert torch.autograd.gradgradcheck(scan, args, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize('backend', available_backends())
def test_non_contiguous_and_expanded_inputs(backend):
    u, x_dbl, dt_weight, A, D, dt_bias = arguments(2, 40, 6)
    expected = selective_scan(u, x_dbl, dt_weight, A, D, dt_bias, backend='naive')
    strided = u.transpose(1, 2).contiguous().transpose(1, 2)
    half = torch.cat([u, u], dim=2)[..., :6]
    x_dbl_strided = torch.stack([x_dbl, x_dbl], dim=-1)[..., 0]
    assert not any(x.is_contiguous() for x in (strided, half, x_dbl_strided))
    for given in (strided, half):
        found = selective_scan(given, x_dbl_strided, dt_weight, A, D, dt_bias, backend=backend)
        assert relative_error(found, expected) < 1e-12
    shared = x_dbl[:1, :, :1].expand_as(x_dbl)
    expected = selective_scan(u, shared.contiguous(), dt_weight, A, D, dt_bias, backend='naive')
    found = selective_scan(u, shared, dt_weight, A, D, dt_bias, backend=backend)
    assert relative_error(found, expected) < 1e-12


def test_inputs_are_left_alone():
    args = arguments(2, 50, 3)
    before = [x.clone() for x in args]
    selective_scan(*args)
    assert all(torch.equal(x, y) for x, y in zip(args, before))


@pytest.mark.parametrize('backend', available_backends())
@pytest.mark.parametrize('direction', [0, 1])
def test_causality(direction, backend):
    """With the other direction disabled, outputs do not depend on later steps of the walk."""
    u, x_dbl, *others = arguments(1, 50, 3)
    x_dbl[:, :, 1 - direction, -1] = 0  # C
    changed = u.clone()
    changed[:, 20] += 1.0
    before, after = (selective_scan(x, x_dbl, *others, backend=backend) for x in (u, changed))
    same = before == after
    unseen = slice(0, 20) if direction == 0 else slice(21, None)
    seen = slice(20, 23) if direction == 0 else slice(18, 21)
    assert same[:, unseen].all()
    assert not same[:, seen].any()


@pytest.mark.parametrize('backend', available_backends())
def test_adjointness(backend):
    """<scan(u), v> == <u, scan*(v)>, where scan* swaps the directions and the roles of B and C.

    If step sizes are constant in time, the adjoint of one direction is the other one.
    """
    u, x_dbl, dt_weight, *channelwise = arguments(3, 45, 4)
    v = arguments(3, 45, 4, seed=1)[0]
    x_dbl[..., :-2] = 0
    scanned = selective_scan(u, x_dbl, dt_weight, *channelwise, backend=backend)
    swapped = x_dbl.flip(2)
    swapped[..., -2:] = swapped[..., -2:].flip(3)
    adjoint = selective_scan(v, swapped, dt_weight, *(x.flip(0) for x in channelwise), backend=backend)
    torch.testing.assert_close((scanned * v).sum(), (u * adjoint).sum(), rtol=1e-10, atol=0)


@pytest.mark.parametrize('backend', available_backends())
def test_merge_adds_each_direction_once(backend):
    """The result equals the sum of both directions, each computed with the other one disabled."""
    u, x_dbl, dt_weight, A, D, dt_bias = arguments(4, 30, 3)
    parts = 0
    for k in range(2):
        only = torch.zeros(2, 1, dtype=torch.float64)
        only[k] = 1
        one = x_dbl.clone()
        one[:, :, 1 - k, -1] = 0
        parts = parts + selective_scan(u, one, dt_weight, A, D * only, dt_bias, backend=backend)
    whole = selective_scan(u, x_dbl, dt_weight, A, D, dt_bias, backend=backend)
    assert relative_error(whole, parts) < 1e-14


@pytest.mark.parametrize('backend', available_backends())
def test_batch_independence(backend):
    args = arguments(4, 70, 5)
    together = selective_scan(*args, backend=backend)
    for n in range(4):
        alone = [x[n : n + 1] for x in args[:2]] + args[2:]
        assert relative_error(selective_scan(*alone, backend=backend), together[n : n + 1]) < 1e-14


@pytest.mark.parametrize('length', [5, 40])
def test_empty_batch(length):
    u, x_dbl, *others = arguments(1, length, 3)
    args = [u[:0], x_dbl[:0], *others]
    assert selective_scan(*args).shape == selective_scan(*args, backend='naive').shape == (0, length, 3)


@pytest.mark.parametrize('bias', [-12.0, 0.0, 12.0])
@pytest.mark.parametrize('length', [64, 4200])
def test_finite_at_extremes(length, bias):
    u, x_dbl, dt_weight, A, D, dt_bias = arguments(1, length, 4, torch.float32)
    args = [(50 * u.sign()), x_dbl, dt_weight, A.clamp(-16, -1e-3), D, torch.full_like(dt_bias, bias)]
    args = [x.requires_grad_() for x in args]
    y = selective_scan(*args)
    assert y.isfinite().all()
    exact = selective_scan(*(x.detach().double() for x in args), backend='naive')
    assert relative_error(y.detach(), exact) < 1e-5
    y.mean().backward()
    assert all(x.grad.isfinite().all() for x in args)


def test_backends_are_named_and_wrong_calls_explained():
    there = available_backends()
    assert tuple(name for name in there if name != 'export')[-2:] == ('torch', 'naive')
    assert ('export' in there) == hasattr(torch._higher_order_ops, 'scan')  # since torch 2.6
    assert select_backend().backend == available_backends()[0]
    assert select_backend('torch') == ('torch', {})
    args = arguments(1, 4, 3)
    with pytest.raises(ValueError, match=r"'cuda' is not one of .*cpp.*naive.*torch.*triton"):
        selective_scan(*args, backend='cuda')
    with pytest.raises(ValueError, match=r'A must have shape \(2, 3\)'):
        selective_scan(*args[:3], args[3][:1], *args[4:])
    with pytest.raises(ValueError, match=r'x_dbl must have shape \(1, 4, 2, 5\) .* R of 3'):
        selective_scan(args[0], args[1][..., 1:], *args[2:])
    with pytest.raises(ValueError, match=r'u must be \(N, L, E\)'):
        selective_scan(args[0][:, :0], *args[1:])


def test_a_backend_of_another_device_says_so():
    choice = select_backend(device='meta')
    assert choice.backend == 'torch'
    assert choice.passed_over == dict(
        cpp='it is for cpu, and the tensors are on meta', triton='it is for cuda, and the tensors are on meta'
    )
    with pytest.raises(RuntimeError, match=r"'cpp' cannot run: it is for cpu.*backend='auto'"):
        select_backend('cpp', device='meta')


@pytest.mark.parametrize(
    'name, value, reason',
    [('find_spec', lambda name: None, 'Triton is not installed'), ('AS_OPERATOR', False, r'Triton 3\.0')],
)
def test_triton_is_passed_over_with_the_reason(monkeypatch, name, value, reason):
    monkeypatch.setattr(backends, name, value)
    choice = select_backend(device='cuda')
    assert choice.backend == 'torch'
    assert re.search(reason, choice.passed_over['triton'])
