"""Regional compilation: number of graphs, recompilations, and equality with the network."""

import copy
import pickle

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from mmmobilemamba import MobileMamba
from mmmobilemamba.models import compile_regions
from mmmobilemamba.models.backbones import region
from mmmobilemamba.models.backbones.region import FIRST_VERSION

from ..conftest import relative_error
from .test_backbone import small

VERSION = tuple(int(part) for part in torch.__version__.split('.')[:2])
pytestmark = pytest.mark.skipif(VERSION < FIRST_VERSION, reason='needs PyTorch 2.5')
IMAGES = (4, 3, 64, 96)
KINDS = 6  # the stem, the blocks of three stages, and two downsamples


@pytest.fixture
def counter():
    """A backend that counts graphs, after a reset of the compiler."""
    torch.compiler.reset()
    counters.clear()
    yield CompileCounterWithBackend('eager')
    torch.compiler.reset()


def step(model, x):
    """One step of training: the last map, and the gradients."""
    model.zero_grad()
    torch.manual_seed(1)  # for drop path
    out = model(x)
    out = out[-1] if isinstance(out, tuple) else out
    out.float().square().mean().backward()
    return out.detach(), [parameter.grad for parameter in model.parameters()]


def assert_equal(found, expected, bound=1e-5):
    """Compare outputs and gradients; gradients of parameters before a norm can be rounding errors only."""
    assert relative_error(found[0], expected[0]) < bound
    largest = max(grad.abs().max() for grad in expected[1] if grad is not None)
    for one, other in zip(found[1], expected[1]):
        assert (one is None) == (other is None)
        assert one is None or (one - other).abs().max() < bound * largest


def test_blocks_of_a_stage_share_a_graph(counter):
    backbone = small(drop_path_rate=0.3).train()
    compiled = compile_regions(copy.deepcopy(backbone), backend=counter)
    for number in range(2):
        x = torch.rand(IMAGES) + number
        assert_equal(step(compiled, x), step(backbone, x))
        assert counter.frame_count == KINDS
    for one, other in zip(compiled.buffers(), backbone.buffers()):
        torch.testing.assert_close(one, other)
    assert not counters['graph_break']
    assert list(compiled.state_dict()) == list(backbone.state_dict())


def test_no_graph_for_evaluation_or_a_copy(counter):
    backbone = small(compile=dict(backend=counter)).train()
    x = torch.rand(IMAGES)
    step(backbone, x)
    average = copy.deepcopy(backbone)
    step(average, x)
    expected = copy.deepcopy(backbone).eval()(x)[0]
    with torch.no_grad():
        assert relative_error(backbone.eval()(x)[0], expected.detach()) < 1e-5
    step(backbone.train(), x)
    assert counter.frame_count == KINDS
    assert average.stages[0].blocks[0].region is backbone.stages[0].blocks[0].region


def test_evaluation_if_it_is_wanted(counter):
    backbone = small().eval()
    backbone.switch_to_deploy()
    x = torch.rand(IMAGES)
    with torch.inference_mode():
        expected = backbone(x)[0]
        compile_regions(backbone, evaluation=True, backend=counter, dynamic=False)
        assert relative_error(backbone(x)[0], expected) < 1e-6
    assert counter.frame_count == KINDS and not counters['graph_break']


def test_other_sizes_are_bounded(counter):
    """The second size compiles dynamic graphs, except for odd sides, which are padded on a CPU."""
    backbone = small(out_indices=0, compile=dict(backend=counter)).train()
    counts = []
    for size in ((64, 96), (96, 128), (128, 160), (48, 96), (128, 64), (80, 160)):
        step(backbone, torch.rand(4, 3, *size))
        counts.append(counter.frame_count)
    assert counts[0] == 2 and counts[1] == counts[2] == 4 and counts[3] == counts[4] == counts[5] <= 6


@pytest.mark.parametrize('kwargs', [dict(with_cp=True), dict(norm_eval=True), dict(frozen_stages=1)], ids=str)
def test_with_other_settings(counter, kwargs):
    backbone = small(**kwargs).train()
    compiled = compile_regions(copy.deepcopy(backbone), backend=counter)
    counts = []
    for number in range(2):
        x = torch.rand(IMAGES) + number
        assert_equal(step(compiled, x), step(backbone, x))
        counts.append(counter.frame_count)
    assert counts[0] == counts[1] <= 2 * KINDS  # recomputation does not update the statistics
    for one, other in zip(compiled.buffers(), backbone.buffers()):
        torch.testing.assert_close(one, other)


def test_autocast(counter):
    backbone = small().train()
    compiled = compile_regions(copy.deepcopy(backbone), backend=counter)
    x = torch.rand(IMAGES)
    for _ in range(2):
        with torch.autocast('cpu', torch.bfloat16):
            found = step(compiled, x)
            expected = step(backbone, x)
        assert found[0].dtype == torch.bfloat16
        assert_equal(found, expected, bound=1e-2)
        assert counter.frame_count == KINDS


@pytest.mark.slow
@pytest.mark.parametrize('backend', ['aot_eager', 'inductor'])
def test_gradients_of_compiled_code(backend):
    """For the stem and the first stage, with backends that generate a backward pass."""
    torch.compiler.reset()
    backbone = small(out_indices=0).train()
    compiled = compile_regions(copy.deepcopy(backbone), backend=backend)
    x = torch.rand(IMAGES)
    assert_equal(step(compiled, x), step(backbone, x))
    torch.compiler.reset()


def test_in_a_larger_model(counter):
    model = nn.Sequential(nn.Identity(), small())
    assert compile_regions(model, backend=counter) is model
    step(model, torch.rand(IMAGES))
    assert counter.frame_count == KINDS
    with pytest.raises(ValueError, match='There is no MobileMamba in this Linear'):
        compile_regions(nn.Linear(1, 1))


def test_under_ddp(counter, tmp_path):
    """In one process of a distributed training, gradients equal those of the plain network."""
    backbone = small(out_indices=0).train()
    compiled = compile_regions(copy.deepcopy(backbone), backend=counter)
    x = torch.rand(IMAGES)
    torch.distributed.init_process_group('gloo', f'file://{tmp_path}/store', world_size=1, rank=0)
    try:
        wrapped = nn.parallel.DistributedDataParallel(compiled)
        for _ in range(2):
            found = step(wrapped, x)
    finally:
        torch.distributed.destroy_process_group()
    step(backbone, x)
    assert_equal(found, step(backbone, x))
    assert counter.frame_count == 2 and not counters['graph_break']


def test_average_of_the_weights(counter):
    """mmengine's EMA copies the network, averages the weights, and evaluates the copy."""
    backbone = small(out_indices=0, compile=dict(backend=counter)).train()
    average = ExponentialMovingAverage(backbone, momentum=0.5)
    start = copy.deepcopy(backbone.state_dict())
    x = torch.rand(IMAGES)
    for _ in range(2):
        step(backbone, x)
        with torch.no_grad():
            backbone.stem[0].conv.weight.add_(1)
        average.update_parameters(backbone)
    weight = average.module.stem[0].conv.weight - start['stem.0.conv.weight']
    torch.testing.assert_close(weight, torch.full_like(weight, 1.5))  # a copy first, then half a step
    assert average.module.eval()(x)[0].shape == (4, 32, 4, 6)
    assert counter.frame_count == 2


def test_pickled_with_its_options():
    backbone = pickle.loads(pickle.dumps(small(compile=dict(evaluation=True, dynamic=False))))
    _, _, kind, evaluation, options = backbone.stages[1].blocks[0].region.arguments
    assert (kind, evaluation, options) == ('stage_1', True, dict(dynamic=False))


@torch.no_grad()
def test_traced_as_it_is():
    """Traces and exports use the plain modules."""
    backbone = small(out_indices=0).eval()
    x = torch.rand(1, 3, 32, 32)
    expected = backbone(x)[0]
    compile_regions(backbone, evaluation=True, backend='eager')
    traced = torch.jit.trace(backbone, x, check_trace=False)
    assert relative_error(traced(x)[0], expected) < 1e-5
    assert 'aten::_convolution' in str(traced.inlined_graph)


def test_older_pytorch(monkeypatch):
    monkeypatch.setattr(torch, '__version__', '2.4.1+cu121')
    with pytest.raises(RuntimeError, match=r'needs PyTorch 2\.5 or newer, not 2\.4\.1'):
        MobileMamba('t2', compile=True)
    assert region.FIRST_VERSION == (2, 5)
