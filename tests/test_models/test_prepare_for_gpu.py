"""Networks prepared for a GPU, with simulated CUDA graphs; tests on a GPU: tests/test_on_a_gpu.py."""

import copy
import sys

import pytest
import torch
from torch import nn

from mmmobilemamba.models import prepare_for_cpu, prepare_for_gpu, prepare_for_inference
from mmmobilemamba.models.prepare_for_gpu import GraphedNetwork, choose_dtype, compile_for_inference

from ..helpers import needs_torch
from .test_backbone import small

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')


class StandIn:
    """Reads and writes the same memory at every call, like a CUDA graph."""

    def __init__(self, network, image):
        self.network, self.image, self.out = network, image, network(image)

    def __call__(self, image):
        self.image.copy_(image)
        for memory, value in zip(self.out, self.network(self.image)):
            memory.copy_(value)
        return self.out


class Double(nn.Module):
    """Returns twice the image, and a mask of its positive values."""

    def forward(self, x):
        self.dtype, self.is_last = x.dtype, x.is_contiguous(memory_format=torch.channels_last)
        return 2 * x, x > 0


@pytest.fixture
def prepared(monkeypatch):
    monkeypatch.setattr(sys.modules[GraphedNetwork.__module__], 'Graph', StandIn)
    return GraphedNetwork(Double(), torch.bfloat16, torch.channels_last, max_graphs=2)


def test_sizes_and_types(prepared):
    for size in ((1, 3, 4, 5), (2, 3, 4, 5), (1, 3, 4, 5), (1, 3, 6, 6)):
        image = torch.randn(size)
        double, above = prepared(image)
        assert double.dtype == torch.float32 and above.dtype == torch.bool
        assert torch.equal(double, 2 * image.bfloat16().float()) and torch.equal(above, image > 0)
        assert prepared.network.dtype == torch.bfloat16 and prepared.network.is_last
    assert sorted(prepared.graphs) == [(1, 3, 4, 5), (2, 3, 4, 5)]
    assert 'dtype=torch.bfloat16' in repr(prepared) and '(2, 3, 4, 5)' in repr(prepared)


def test_answers_stay(prepared):
    first, second = torch.ones(1, 3, 4, 5), torch.zeros(1, 3, 4, 5)
    answers = [prepared(image)[0] for image in (first, second)]
    assert torch.equal(answers[0], 2 * first) and torch.equal(answers[1], second)
    assert not answers[0].requires_grad


def test_stays_in_its_process(prepared):
    for action, message in (
        (lambda: copy.deepcopy(prepared), 'cannot be copied'),
        (lambda: prepared.half(), 'cannot be moved or converted'),
        (lambda: prepared.state_dict(), 'cannot be saved'),
        (lambda: prepared.load_state_dict({}), 'cannot be saved or loaded into'),
    ):
        with pytest.raises(RuntimeError, match=f'A network from prepare_for_gpu {message}.*repare'):
            action()


def test_types_of_gpus():
    assert [choose_dtype(None, capability) for capability in ((9, 0), (8, 0), (7, 5), (5, 0))] == [
        torch.bfloat16,
        torch.bfloat16,
        torch.float16,
        torch.float32,
    ]
    assert choose_dtype(torch.float32, (9, 0)) == torch.float32
    with pytest.raises(ValueError, match=r'one of .* of compute capability \(7, 5\), not torch.bfloat16'):
        choose_dtype(torch.bfloat16, (7, 5))


@needs_torch('2.5')
def test_what_is_compiled():
    """MobileMamba is compiled by region inside any model; other networks as a whole."""
    model = nn.Sequential(small(out_indices=0))
    assert compile_for_inference(model) is model
    region = model[0].stages[0].blocks[0].region
    assert region.evaluation and region.arguments[4] == dict(dynamic=False)
    network = nn.Linear(2, 2)
    assert compile_for_inference(network)._orig_mod is network


@torch.no_grad()
def test_prepared_by_device():
    network, image = small(out_indices=0).eval(), torch.rand(1, 3, 32, 32)
    found, expected = (make(network, image)(image)[0] for make in (prepare_for_inference, prepare_for_cpu))
    assert torch.equal(found, expected)
    with pytest.raises(TypeError, match='dtype'):
        prepare_for_inference(network, image, dtype=torch.float16)


@no_gpu
def test_without_a_gpu():
    with pytest.raises(RuntimeError, match=r'sees no GPU of NVIDIA here\. prepare_for_cpu is for CPUs'):
        prepare_for_gpu(small(), torch.rand(1, 3, 32, 32))
