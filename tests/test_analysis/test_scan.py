"""Step sizes and states against an explicit recurrence and the output of the scan."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmmobilemamba.analysis import scan_states
from mmmobilemamba.models.layers import SS2D, fold, set_backend
from mmmobilemamba.ops.selective_scan.naive import selective_scan_naive, split_x_dbl

from ..conftest import noise_for, relative_error
from ..helpers import randomise

CHANNELS, SIZE = 8, (3, 5)


@pytest.fixture(scope='module')
def layer():
    return randomise(SS2D(CHANNELS, dict(type='BN'))).double(), noise_for((2, CHANNELS, *SIZE), 0).double()


def sequence_of(ss2d, x):
    """The input of a layer's scan, (N, L, E)."""
    u, _ = ss2d.in_proj(x).chunk(2, dim=1)
    return F.silu(ss2d.dwconv(u)).flatten(2).transpose(1, 2)


@torch.no_grad()
def recurrence(ss2d, x):
    """Step sizes and states (N, 2, L, E) pixel by pixel."""
    u = sequence_of(ss2d, x)
    rank, inner = ss2d.dt_rank, 2 * CHANNELS
    delta, states = torch.zeros(2, *u.shape).double(), torch.zeros(2, *u.shape).double()
    for k in range(2):
        A = -ss2d.A_log.view(2, inner)[k].exp()
        h = torch.zeros(len(u), inner).double()
        pixels = range(u.shape[1]) if k == 0 else reversed(range(u.shape[1]))
        for t in pixels:
            projected = u[:, t] @ ss2d.x_proj_weight[k].T
            step = projected[:, :rank] @ ss2d.dt_proj_weight[k].T + ss2d.dt_proj_bias[k]
            delta[k, :, t] = torch.log1p(step.exp())
            h = (delta[k, :, t] * A).exp() * h + delta[k, :, t] * projected[:, rank, None] * u[:, t]
            states[k, :, t] = h
    return delta.transpose(0, 1), states.transpose(0, 1)


def as_maps(values):
    return values.transpose(2, 3).reshape(*values.shape[:2], -1, *SIZE)


@pytest.mark.parametrize('backend', ['auto', 'naive', 'torch'])
def test_equals_the_recurrence(layer, backend):
    ss2d, x = layer
    set_backend(ss2d, backend)
    found = scan_states(ss2d, x)
    assert all(values.shape == (2, 2, 2 * CHANNELS, *SIZE) for values in found)
    for values, expected in zip(found, recurrence(ss2d, x)):
        assert relative_error(values, as_maps(expected)) < 1e-10


@torch.no_grad()
def test_the_naive_scan_reads_these_states(layer):
    """Its output is C times the state, summed over both directions, plus D times the input."""
    ss2d, x = layer
    u, x_dbl, *others = ss2d.scan_arguments(sequence_of(ss2d, x))
    states = scan_states(ss2d, x)[1].flatten(3).transpose(2, 3)
    C = split_x_dbl(x_dbl)[2]
    found = (C * states).sum(1) + ss2d.D.view(2, -1).sum(0) * u
    assert relative_error(found, selective_scan_naive(u, x_dbl, *others)) < 1e-10


def test_deployed_form(layer):
    ss2d, x = layer
    expected = scan_states(ss2d, x)
    deployed = fold(copy.deepcopy(ss2d))
    assert isinstance(deployed.act, nn.Identity)
    for values, reference in zip(scan_states(deployed, x), expected):
        assert relative_error(values, reference) < 1e-10


def test_half_precision_is_computed_in_float32(layer):
    ss2d, x = layer
    expected = scan_states(ss2d, x)
    half = copy.deepcopy(ss2d).to(torch.bfloat16)
    for values, reference in zip(scan_states(half, x.bfloat16()), expected):
        assert values.dtype == torch.float32
        assert relative_error(values, reference) < 0.1
