"""The scan without a loop: equal for any length, with the documented number of operators."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from mmmobilemamba.ops import selective_scan
from mmmobilemamba.ops.export.scan import softplus
from mmmobilemamba.ops.export.walk import Chunks, chunks_of, linear_recurrence, pad, scan_both_ways

from ..conftest import relative_error
from ..helpers import arguments

LENGTHS = (1, 2, 3, 4, 5, 9, 36, 37, 64, 144, 169, 251, 450, 1009, 1024)


def walk(u, x_dbl, dt_weight, A, D, dt_bias, softplus=F.softplus):
    """The walk with the arguments of :func:`~mmmobilemamba.ops.selective_scan`."""
    chunks = chunks_of(u.shape[1])
    padded, x_dbl = pad(u, chunks), pad(x_dbl.flatten(2), chunks).unflatten(2, (2, -1))
    step, B, C = x_dbl[..., :-2], x_dbl[..., -2:-1], x_dbl[..., -1:]
    delta = [softplus(F.linear(step[:, :, k], dt_weight[k], dt_bias[k])) for k in range(2)]
    y = scan_both_ways(padded, delta, B.unbind(2), C.unbind(2), A, chunks, u.shape[2])
    return D.sum(0) * u + y[:, : u.shape[1]]


class Function(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def scaled(args, name):
    """Arguments with decays that underflow or are close to 1, or with large inputs."""
    u, x_dbl, dt_weight, A, D, dt_bias = args
    return dict(
        plausible=args,
        underflow=[u, x_dbl, dt_weight, A * 1e4, D, dt_bias],
        lasting=[u, x_dbl, dt_weight, A * 1e-6, D, dt_bias],
        large=[u * 1e6, x_dbl, dt_weight, A, D, dt_bias],
    )[name]


@pytest.mark.parametrize('values', ['plausible', 'underflow', 'lasting', 'large'])
@pytest.mark.parametrize('length', LENGTHS)
def test_equal_to_naive(length, values):
    for batch in (1, 3):
        args = scaled(arguments(batch, length, 5, torch.float32, seed=length), values)
        exact = selective_scan(*(x.double() for x in args), backend='naive')
        assert relative_error(walk(*args), exact) < 1e-5
        assert relative_error(walk(*args, softplus=softplus), exact) < 1e-5
        assert relative_error(walk(*(x.double() for x in args)), exact) < 1e-12


@pytest.mark.parametrize('backward', [False, True])
@pytest.mark.parametrize(('count', 'steps'), [(1, 6), (6, 1), (2, 3), (3, 2), (4, 5)])
def test_any_chunks(count, steps, backward):
    """Including chunks that are never the cheapest."""
    a, b = torch.rand(2, 2, count, steps, 3, dtype=torch.float64)
    flat = [x.flatten(1, 2).flip(1) if backward else x.flatten(1, 2) for x in (a, b)]
    h, expected = torch.zeros(2, 3, dtype=torch.float64), []
    for decay, value in zip(*(x.unbind(1) for x in flat)):
        h = decay * h + value
        expected.append(h)
    expected = torch.stack(expected[::-1] if backward else expected, 1)
    found = linear_recurrence(a, b, Chunks(count * steps, count, steps), backward)
    assert relative_error(found.flatten(1, 2), expected) < 1e-14


@pytest.mark.parametrize('length', [*LENGTHS, 4200])
def test_number_of_operators(length):
    """It equals that of the chunks, and does not exceed the one in the docstring, in both directions."""
    chunks = chunks_of(length)
    assert chunks.operators <= 5 * math.sqrt(length) + 8
    a, b = torch.rand(2, 1, chunks.count, chunks.steps, 5)
    for backward in (False, True):
        recurrence = partial(linear_recurrence, chunks=chunks, backward=backward)
        nodes = torch.jit.trace(Function(recurrence), (a, b), check_trace=False).graph.nodes()
        assert sum(node.kind().startswith('aten::') for node in nodes) == chunks.operators


def test_chunks():
    """A square is split into its lines, and a prime number of steps is padded by a few."""
    assert chunks_of(1) == Chunks(1, 1, 1)
    assert chunks_of(144).padding == chunks_of(1024).padding == 0
    for length in (251, 1009):
        chunks = chunks_of(length)
        assert chunks.padding < math.sqrt(length) and chunks.count * chunks.steps == length + chunks.padding
