"""The scan in Triton: under Triton's interpreter in a separate process, and on a GPU if available."""

import os
import subprocess
import sys

import pytest
import torch

from mmmobilemamba.ops import select_backend, selective_scan

from ..conftest import ROOT, relative_error
from ..helpers import needs_torch
from .test_selective_scan import NAMES, arguments

# Lengths near segments of 16 and 32 and chunks of 64 and 256, channels near blocks of 32, odd ranks.
SHAPES = [(1, 1, 1, 1), (2, 7, 33, 3), (1, 32, 32, 2), (1, 33, 40, 5), (2, 100, 31, 1), (2, 517, 64, 17)]
# Each shape and dtype is compiled separately, so on a GPU each number of segments is tested once. Dtypes
# only differ in loads.
LONG = [(4, 1050, 544, 17), (1, 4200, 320, 10)]
ON_A_GPU = [(shape, torch.float32) for shape in SHAPES[1:] + LONG]
ON_A_GPU += [(SHAPES[-2], torch.float16), (SHAPES[-1], torch.bfloat16)]

INTERPRETED = """
import torch
from mmmobilemamba.ops.triton import scan, scan_backward, scan_common, scan_forward
from tests.test_ops.test_triton import check
# The interpreter takes a second for a hundred steps: the same kernels on smaller chunks.
scan_common.MIN_SIDE, scan_forward.TILE, scan_backward.TILE = 2, (4, 2), (2, 2)
for shape in [(1, 1, 1, 1), (2, 7, 33, 3), (1, 8, 32, 2), (1, 9, 40, 5), (2, 29, 31, 1)]:
    check(scan, shape, torch.float32, 'cpu', 1e-5)
check(scan, (1, 10, 20, 3), torch.bfloat16, 'cpu', 1e-5)
check(scan, (1, 10, 20, 3), torch.float16, 'cpu', 1e-5)
scan_common.ENOUGH = 1  # then a program walks through any number of chunks
check(scan, (1, 27, 40, 5), torch.float32, 'cpu', 1e-5)
"""


def check(kernels, shape, dtype, device, bound, backward=True):
    """Check outputs and gradients, computed in float32 from inputs of ``dtype``, against float64."""
    *sizes, rank = shape
    given = arguments(*sizes, dtype, rank=rank)
    exact_args = [x.double().requires_grad_() for x in given]
    exact = selective_scan(*exact_args, backend='naive')
    given = [x.to(device) for x in given]
    given[0] = torch.cat([given[0], given[0]], dim=2)[..., : sizes[2]]  # rows of a wider tensor
    found = kernels.forward(*given).cpu()
    assert found.dtype == torch.float32
    assert relative_error(found, exact.detach()) < bound, shape
    if not backward:
        return
    grad_y = torch.randn(exact.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    exact.backward(grad_y.double())
    grads = [x.cpu() for x in kernels.backward(grad_y.to(device), *given)]
    if device == 'cuda':  # in the interpreter, programs run one after another
        again = [x.cpu() for x in kernels.backward(grad_y.to(device), *given)]
        assert all(torch.equal(x, y) for x, y in zip(grads, again))
    for name, x, expected in zip(NAMES, grads, exact_args):
        scale = max(expected.grad.abs().max().item(), 1e-3)
        assert (x - expected.grad).abs().max().item() < bound * scale, (shape, name)


def interpret(program):
    """Run a program under Triton's interpreter, for tensors on the CPU; skip without Triton."""
    pytest.importorskip('triton')
    environment = dict(os.environ, TRITON_INTERPRET='1', CUDA_VISIBLE_DEVICES='')
    command = [sys.executable, '-W', 'ignore', '-c', program]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@needs_torch('2.4')
def test_interpreted():
    interpret(INTERPRETED)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize(('shape', 'dtype'), ON_A_GPU)
def test_on_a_gpu(shape, dtype):
    from mmmobilemamba.ops.triton import scan

    assert select_backend(device='cuda').backend == 'triton'
    check(scan, shape, dtype, 'cuda', 1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('length', [384, 500])
def test_walk_on_a_gpu(length, monkeypatch):
    """One program walks through all chunks, as for many images; backward has no such form."""
    from mmmobilemamba.ops.triton import scan, scan_common

    monkeypatch.setattr(scan_common, 'ENOUGH', 1)
    check(scan, (2, length, 64, 7), torch.float32, 'cuda', 1e-5, backward=False)
