"""The export form of the scan."""

import pytest
import torch
from torch import nn

from mmmobilemamba.ops import available_backends, selective_scan

from ..conftest import relative_error
from .test_selective_scan import arguments

pytestmark = pytest.mark.skipif('export' not in available_backends(), reason='needs torch 2.6')


class Scan(nn.Module):
    """A network that only consists of the scan."""

    def forward(self, u, x_dbl, dt_weight, A, D, dt_bias):
        return selective_scan(u, x_dbl, dt_weight, A, D, dt_bias, backend='export')


@pytest.fixture(scope='module')
def program():
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    shapes = (free, free, None, None, None, None)
    args = tuple(arguments(2, 9, 5, torch.float32))
    return torch.export.export(Scan(), args, dynamic_shapes=shapes, strict=False)


@pytest.mark.parametrize('length', [1, 2, 9, 300])
@pytest.mark.parametrize('batch', [1, 3])
def test_one_program_for_every_size(program, batch, length):
    args = arguments(batch, length, 5, torch.float32)
    exact = selective_scan(*(x.double() for x in args), backend='naive')
    with torch.no_grad():
        assert relative_error(program.module()(*args), exact) < 1e-6


@pytest.mark.parametrize('length', [1, 2, 100])
def test_known_length(length):
    args = arguments(2, length, 5, torch.float32)
    free = {0: torch.export.Dim.DYNAMIC}
    shapes = (free, free, None, None, None, None)
    fixed = torch.export.export(Scan(), tuple(args), dynamic_shapes=shapes, strict=False)
    exact = selective_scan(*(x.double() for x in args), backend='naive')
    with torch.no_grad():
        assert relative_error(fixed.module()(*args), exact) < 1e-6


def test_one_loop_and_nothing_of_ours(program):
    names = [str(node.target) for node in program.graph.nodes if node.op == 'call_function']
    assert names.count('scan') == 1
    assert not [name for name in names if 'mmmobilemamba' in name]


def test_softplus_of_large_numbers():
    """The form for ONNX neither overflows nor flushes small results to zero."""
    from mmmobilemamba.ops.export.scan import softplus

    x = torch.tensor([-200.0, -20.0, -1.0, 0.0, 1.0, 20.0, 200.0])
    torch.testing.assert_close(softplus(x.double()), nn.functional.softplus(x.double()))
    torch.testing.assert_close(softplus(x), nn.functional.softplus(x), rtol=1e-6, atol=1e-7)


def test_elsewhere_it_is_plain_pytorch():
    args = arguments(2, 40, 6)
    assert torch.equal(selective_scan(*args, backend='export'), selective_scan(*args, backend='torch'))
