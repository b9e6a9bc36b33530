"""The scan: naive against the maths, every other form against naive."""

import numpy as np
import pytest
import torch

from mmmobilemamba.ops import available_backends, select_backend, selective_scan

from ..conftest import relative_error

NAMES = ('u', 'dt', 'B', 'C', 'A', 'D', 'dt_bias')
LENGTHS = (1, 2, 3, 7, 64, 196, 1023, 4200)


def arguments(batch, length, channels, dtype=torch.float64, seed=0):
    """Random arguments of plausible size, in the order of ``NAMES``."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    A, D, dt_bias = (normal(2, channels) for _ in range(3))
    dt, u = normal(batch, 2, length, channels), normal(batch, length, channels)
    B, C = normal(batch, 2, length), normal(batch, 2, length)
    return [x.to(dtype) for x in (u, dt, B, C, -A.exp(), D, dt_bias)]


def triple_loop(u, dt, B, C, A, D, dt_bias):
    """The equations in numpy, one number at a time."""
    u, dt, B, C, A, D, dt_bias = (x.numpy() for x in (u, dt, B, C, A, D, dt_bias))
    y = np.zeros_like(u)
    batch, length, channels = u.shape
    for n in range(batch):
        for e in range(channels):
            for k in range(2):
                h = 0.0
                for step in range(length):
                    t = step if k == 0 else length - 1 - step
                    delta = np.log1p(np.exp(dt[n, k, t, e] + dt_bias[k, e]))
                    h = np.exp(delta * A[k, e]) * h + delta * B[n, k, t] * u[n, t, e]
                    y[n, t, e] += C[n, k, t] * h + D[k, e] * u[n, t, e]
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
def test_default_equals_naive(length, batch):
    args = arguments(batch, length, 6, torch.float32)
    exact = selective_scan(*(x.double() for x in args), backend='naive')
    assert relative_error(selective_scan(*args), exact) < 1e-5


@pytest.mark.parametrize('length', LENGTHS)
@pytest.mark.parametrize(('dtype', 'bound'), [(torch.bfloat16, 1e-5), (torch.float16, 1e-5)])
def test_half_inputs_are_scanned_in_float32(length, dtype, bound):
    args = arguments(2, length, 6, dtype)
    exact = selective_scan(*(x.double() for x in args), backend='naive')
    found = selective_scan(*args)
    assert found.dtype == torch.float32
    assert relative_error(found, exact) < bound


@pytest.mark.parametrize('length', [1, 7, 64, 196, 300])
def test_gradients_equal_naive(length):
    def gradients(backend):
        args = [x.requires_grad_() for x in arguments(2, length, 5)]
        weight = torch.linspace(-1, 1, length * 10, dtype=torch.float64).view(2, length, 5)
        (selective_scan(*args, backend=backend) * weight).sum().backward()
        return [x.grad for x in args]

    for name, found, expected in zip(NAMES, gradients('auto'), gradients('naive')):
        torch.testing.assert_close(
            found, expected, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: name + text
        )


@pytest.mark.parametrize('length', [1, 5, 9, 35])
def test_gradcheck(length):
    args = [x.requires_grad_() for x in arguments(1, length, 2)]
    assert torch.autograd.gradcheck(selective_scan, args, eps=1e-6, atol=1e-5, rtol=1e-3, fast_mode=False)


def test_gradgradcheck():
    args = [x.requires_grad_() for x in arguments(1, 18, 2)]
    assert torch.autograd.gradgradcheck(selective_scan, args, atol=1e-5, rtol=1e-3)


def test_non_contiguous_and_expanded_inputs():
    u, dt, B, C, A, D, dt_bias = arguments(2, 40, 6)
    expected = selective_scan(u, dt, B, C, A, D, dt_bias, backend='naive')
    strided = u.transpose(1, 2).contiguous().transpose(1, 2)
    rows = torch.stack([B, C], dim=-1)
    dt_strided = torch.stack([dt, dt], dim=-1)[..., 0]
    assert not any(x.is_contiguous() for x in (strided, rows[..., 0], dt_strided))
    found = selective_scan(strided, dt_strided, rows[..., 0], rows[..., 1], A, D, dt_bias)
    assert relative_error(found, expected) < 1e-12
    shared = dt[:1, :1].expand_as(dt)
    expected = selective_scan(u, shared.contiguous(), B, C, A, D, dt_bias, backend='naive')
    assert relative_error(selective_scan(u, shared, B, C, A, D, dt_bias), expected) < 1e-12


def test_inputs_are_left_alone():
    args = arguments(2, 50, 3)
    before = [x.clone() for x in args]
    selective_scan(*args)
    assert all(torch.equal(x, y) for x, y in zip(args, before))


@pytest.mark.parametrize('direction', [0, 1])
def test_causality(direction):
    """A direction whose partner is silenced never sees what comes later in its walk."""
    u, dt, B, C, A, D, dt_bias = arguments(1, 50, 3)
    C[:, 1 - direction] = 0
    changed = u.clone()
    changed[:, 20] += 1.0
    before, after = (selective_scan(x, dt, B, C, A, D, dt_bias) for x in (u, changed))
    same = before == after
    unseen = slice(0, 20) if direction == 0 else slice(21, None)
    seen = slice(20, 23) if direction == 0 else slice(18, 21)
    assert same[:, unseen].all()
    assert not same[:, seen].any()


def test_adjointness():
    """<scan(u), v> == <u, scan*(v)>, where scan* swaps the directions and the roles of B and C.

    With a step size that is constant in time the adjoint of one direction is the other one.
    """
    batch, length, channels = 3, 45, 4
    u, _, B, C, A, D, dt_bias = arguments(batch, length, channels)
    v = arguments(batch, length, channels, seed=1)[0]
    dt = torch.zeros(batch, 2, length, channels, dtype=torch.float64)
    scanned = selective_scan(u, dt, B, C, A, D, dt_bias)
    swapped = (x.flip(0) for x in (A, D, dt_bias))
    adjoint = selective_scan(v, dt, C.flip(1), B.flip(1), *swapped)
    torch.testing.assert_close((scanned * v).sum(), (u * adjoint).sum(), rtol=1e-10, atol=0)


def test_merge_adds_each_direction_once():
    """Both directions together are the sum of each with the other silenced."""
    u, dt, B, C, A, D, dt_bias = arguments(4, 30, 3)
    parts = 0
    for k in range(2):
        only = torch.zeros(2, 1, dtype=torch.float64)
        only[k] = 1
        parts = parts + selective_scan(u, dt, B, C * only, A, D * only, dt_bias)
    assert relative_error(selective_scan(u, dt, B, C, A, D, dt_bias), parts) < 1e-14


@pytest.mark.parametrize('backend', available_backends())
def test_batch_independence(backend):
    args = arguments(4, 70, 5)
    together = selective_scan(*args, backend=backend)
    for n in range(4):
        alone = [x[n : n + 1] for x in args[:4]] + args[4:]
        assert relative_error(selective_scan(*alone, backend=backend), together[n : n + 1]) < 1e-14


@pytest.mark.parametrize('length', [5, 40])
def test_empty_batch(length):
    args = [x[:0] if x.ndim > 2 else x for x in arguments(1, length, 3)]
    assert selective_scan(*args).shape == selective_scan(*args, backend='naive').shape == (0, length, 3)


@pytest.mark.parametrize('bias', [-12.0, 0.0, 12.0])
@pytest.mark.parametrize('length', [64, 4200])
def test_finite_at_extremes(length, bias):
    u, dt, B, C, A, D, dt_bias = arguments(1, length, 4, torch.float32)
    args = [(50 * u.sign()), dt, B, C, A.clamp(-16, -1e-3), D, torch.full_like(dt_bias, bias)]
    args = [x.requires_grad_() for x in args]
    y = selective_scan(*args)
    assert y.isfinite().all()
    exact = selective_scan(*(x.detach().double() for x in args), backend='naive')
    assert relative_error(y.detach(), exact) < 1e-5
    y.mean().backward()
    assert all(x.grad.isfinite().all() for x in args)


def test_backends_are_named_and_wrong_calls_explained():
    assert available_backends() == ('naive', 'torch')
    assert select_backend() == select_backend('torch') == 'torch'
    args = arguments(1, 4, 3)
    with pytest.raises(ValueError, match=r"'cuda' is not one of .*naive.*torch"):
        selective_scan(*args, backend='cuda')
    with pytest.raises(ValueError, match=r'A must have shape \(2, 3\)'):
        selective_scan(*args[:4], args[4][:1], *args[5:])
    with pytest.raises(ValueError, match=r'u must be \(N, L, E\)'):
        selective_scan(args[0][:, :0], *args[1:])
