"""CUDA graphs of training steps, simulated by functions that reuse the memory of outputs and gradients."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.registry import HOOKS
from torch import nn
from torch.utils.data import DataLoader

from mmmobilemamba.engine import CUDAGraphHook
from mmmobilemamba.models import graph_training

from ..conftest import relative_error
from .test_backbone import small

IMAGES = (2, 3, 64, 96)
captures = []


def graphed_callables(module, sample_args, num_warmup_iters, allow_unused_input):
    """Like PyTorch's: every call reads and writes the same memory, including gradients."""
    assert allow_unused_input and not torch.is_autocast_cache_enabled()
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for _ in range(num_warmup_iters):
        outs = module(*sample_args)
    outs_memory = [torch.empty_like(out) for out in outs]
    grads_memory = [torch.empty_like(parameter) for parameter in parameters]
    captures.append(module)

    class Graphed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, *parameters):
            assert x.shape == sample_args[0].shape
            with torch.enable_grad():
                Graphed.outs = module.forward(x.detach())
            for memory, out in zip(outs_memory, Graphed.outs):
                memory.copy_(out.detach())
            return tuple(memory.detach() for memory in outs_memory)

        @staticmethod
        def backward(ctx, *grads):  # always of the last step
            found = torch.autograd.grad(Graphed.outs, parameters, grads, allow_unused=True, retain_graph=True)
            for memory, grad in zip(grads_memory, found):
                memory.copy_(grad)
            return None, *(memory.detach() for memory in grads_memory)

    return lambda x: Graphed.apply(x, *parameters)


@pytest.fixture
def gpu(monkeypatch):
    captures.clear()
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0')  # read by mmengine's logger
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'make_graphed_callables', graphed_callables)


def pair(**kwargs):
    """A backbone, and a copy that runs as CUDA graphs."""
    backbone = small(**kwargs).train()
    return backbone, graph_training(copy.deepcopy(backbone))


def assert_same(found, expected, bound=1e-5):
    grads = [(p.grad, q.grad) for p, q in zip(found.parameters(), expected.parameters()) if p.requires_grad]
    largest = max(grad.abs().max() for _, grad in grads)
    assert max((x - y).abs().max() for x, y in grads) < bound * largest
    for x, y in zip(found.buffers(), expected.buffers()):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize('set_to_none', [True, False])
@pytest.mark.parametrize('steps', [1, 3])
def test_steps_with_accumulation(gpu, set_to_none, steps):
    """Gradients are accumulated over steps and reset; validation runs in between."""
    backbone, graphed = pair(out_indices=(0, 2), frozen_stages=0)
    for _ in range(2):
        for number in range(steps):
            x = torch.rand(IMAGES) + number
            for model in (backbone, graphed):
                low, high = model(x)
                (low.square().mean() + high.square().mean()).backward()
        assert_same(graphed, backbone)
        assert relative_error(graphed.eval()(x)[1].detach(), backbone.eval()(x)[1].detach()) < 1e-5
        for model in (backbone, graphed):
            model.train().zero_grad(set_to_none=set_to_none)
    assert len(captures) == 1


def test_outputs_stay(gpu):
    backbone, graphed = pair()
    x = torch.rand(IMAGES)
    first = graphed(x)[0]
    kept = first.detach().clone()
    first.sum().backward()
    graphed(x + 1)[0].sum().backward()
    assert torch.equal(first, kept)
    assert relative_error(kept, backbone(x)[0].detach()) < 1e-5


def test_two_outputs_before_a_backward(gpu):
    _, graphed = pair()
    x = torch.rand(IMAGES)
    out = graphed(x)[0]
    with pytest.raises(RuntimeError, match=r'still waits for its backward.*Call backward first'):
        graphed(x)
    del out  # a discarded step is not pending
    graphed(x)[0].sum().backward()
    with torch.no_grad():
        graphed(x)
    graphed(x)


def test_other_images(gpu):
    _, graphed = pair()
    graphed(torch.rand(IMAGES))
    for x in (torch.rand(1, 3, 64, 96), torch.rand(2, 3, 64, 64), torch.rand(IMAGES).double()):
        with pytest.raises(RuntimeError, match=r'shape \(2, 3, 64, 96\).*set drop_last=True'):
            graphed(x)


def test_captured_again_when_weights_move(gpu):
    backbone, graphed = pair()
    x = torch.rand(IMAGES)
    graphed(x)[0].sum().backward()
    graphed.stem.requires_grad_(False)
    graphed(x)[0].sum().backward()
    assert len(captures) == 2
    graphed.load_state_dict(copy.deepcopy(backbone.state_dict()), assign=True)
    graphed(x)
    assert len(captures) == 3


def test_copies_have_graphs_of_their_own(gpu):
    _, graphed = pair()
    x = torch.rand(IMAGES)
    graphed(x)[0].sum().backward()
    for other in (copy.deepcopy(graphed), pickle.loads(pickle.dumps(graphed))):
        assert other.training_graph.warmup == 3 and other.training_graph.graphed is None
        assert relative_error(other(x)[0].detach(), graphed.extract(x)[0].detach()) < 1e-4


def test_what_cannot_be_captured(gpu):
    with pytest.raises(ValueError, match='with_cp=True cannot be captured'):
        graph_training(small(with_cp=True))
    with pytest.raises(ValueError, match=r'SyncBN cannot be captured.*Use BN'):
        graph_training(small(norm_cfg=dict(type='SyncBN')))
    with pytest.raises(ValueError, match='There is no MobileMamba in this Linear'):
        graph_training(nn.Linear(1, 1))


def test_failed_capture(gpu, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError('operation not permitted when stream is capturing')

    monkeypatch.setattr(torch.cuda, 'make_graphed_callables', fail)
    with pytest.raises(RuntimeError, match='could not be captured') as error:
        pair()[1](torch.rand(IMAGES))
    assert 'not permitted' in str(error.value.__cause__)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu():
    with pytest.raises(RuntimeError, match=r'need a GPU of NVIDIA.*Leave CUDA graphs out'):
        graph_training(small())


def runner(model, images=8, batch=2, drop_last=False, sampler=DefaultSampler):
    dataset = list(range(images))
    loader = DataLoader(dataset, batch, sampler=sampler(dataset), drop_last=drop_last)
    return SimpleNamespace(model=model, train_dataloader=loader)


def test_hook(gpu):
    model = nn.Sequential(small())
    hook = HOOKS.build(dict(type='CUDAGraphHook', warmup=2))
    hook.before_train(runner(model))
    assert model[0].training_graph.warmup == 2
    hook.after_train(runner(model))
    assert model[0].training_graph is None


def test_hook_refuses_a_smaller_last_batch(gpu):
    hook, model = CUDAGraphHook(), small()
    with pytest.raises(ValueError, match=r'has 1 of 2 images.*train_dataloader\.drop_last=True'):
        hook.before_train(runner(model, images=7))
    assert model.training_graph is None
    for settings in (dict(drop_last=True), dict(sampler=InfiniteSampler)):
        hook.before_train(runner(model, images=7, **settings))
