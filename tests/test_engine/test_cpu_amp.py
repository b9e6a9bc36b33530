"""Mixed precision on a CPU: dtypes in bfloat16 and float32, and training."""

from contextlib import contextmanager

import pytest
import torch
from mmengine.optim import build_optim_wrapper

pytest.importorskip('mmpretrain')

from mmpretrain.structures import DataSample

from mmmobilemamba.models.layers import ss2d
from mmmobilemamba.ops import norm_gate

from .test_layer_decay import classifier


def build():
    model = classifier()
    model.init_weights()
    return model.train()


def batch():
    """Twelve images in three shades."""
    labels = [number % 3 for number in range(12)]
    images = torch.stack([0.2 * torch.randn(3, 64, 64) + shade - 1 for shade in labels])
    return dict(inputs=images, data_samples=[DataSample().set_gt_label(label) for label in labels])


def wrap(model, **kwargs):
    optimizer = dict(type='AdamW', lr=3e-3)
    return build_optim_wrapper(model, dict(type='CPUAmpOptimWrapper', optimizer=optimizer, **kwargs))


def test_types(monkeypatch):
    model = build()
    wrapper = wrap(model)
    conv = model.backbone.stem[2].conv
    seen = {}

    def gate(y, *args):
        seen.update(scan=y.dtype)
        return norm_gate(y, *args)

    monkeypatch.setattr(ss2d, 'norm_gate', gate)
    conv.register_forward_hook(lambda module, args, out: seen.update(conv=out.dtype))
    data = model.data_preprocessor(batch(), True)
    with wrapper.optim_context(model):
        losses = model(**data, mode='loss')
    assert torch.mm(torch.ones(1, 1), torch.ones(1, 1)).dtype == torch.float32  # only in the context
    assert seen == dict(scan=torch.float32, conv=torch.bfloat16)
    assert losses['loss'].dtype == torch.float32
    losses['loss'].backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())


def test_it_trains():
    model, data = build(), batch()
    wrapper = wrap(model, clip_grad=dict(max_norm=5.0))
    losses = [model.train_step(data, wrapper)['loss'].item() for _ in range(20)]
    assert torch.isfinite(torch.tensor(losses)).all()
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32, torch.int64}
    moments = [state['exp_avg'].dtype for state in wrapper.optimizer.state.values()]
    assert len(moments) == len(list(model.parameters())) and set(moments) == {torch.float32}


def test_gradient_accumulation():
    """Of two steps, the second updates the weights, and only the first skips gradient synchronisation."""
    model, data, unsynced = build(), batch(), []

    @contextmanager
    def no_sync():  # as in DistributedDataParallel
        unsynced.append(step)
        yield

    model.no_sync = no_sync
    wrapper = wrap(model, accumulative_counts=2)
    weight = model.head.head.linear.weight
    before = weight.detach().clone()
    for step in (1, 2):
        model.train_step(data, wrapper)
        assert torch.equal(weight, before) == (step == 1)
    assert unsynced == [1]
