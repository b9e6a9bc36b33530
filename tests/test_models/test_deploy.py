"""The deployed form: each fold, whole networks, and checkpoints of both forms."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmmobilemamba import MobileMamba
from mmmobilemamba.models.checkpoint import CheckpointError, describe
from mmmobilemamba.models.layers import (
    Conv2d,
    ConvBN,
    FoldedWTEMamba,
    MKDeConv,
    Residual,
    WTEMamba,
    fold,
    fold_norm,
    folding,
    fuse,
)
from mmmobilemamba.ops import cpu

from ..conftest import authors_checkpoint, golden, image_for, noise_for, relative_error
from ..helpers import SMALL, randomise

BN, GN = dict(type='BN'), dict(type='GN', num_groups=1)


def both_forms(module):
    """A module with random statistics and a folded copy."""
    randomise(module)
    return module, fold(copy.deepcopy(module))


def trained(arch=SMALL):
    """A network with the same random weights at every call."""
    torch.manual_seed(0)
    return randomise(MobileMamba(arch, out_indices=(0, 1, 2)))


def folded_checkpoint(arch=SMALL):
    backbone = trained(arch)
    backbone.switch_to_deploy()
    return backbone.state_dict()


@torch.no_grad()
@pytest.mark.parametrize('kwargs', [dict(), dict(kernel_size=3, stride=2), dict(kernel_size=3, groups=4)])
def test_conv_and_norm(kwargs):
    module, folded = both_forms(ConvBN(8, 12, **kwargs).double())
    assert type(folded) is Conv2d
    x = noise_for((2, 8, 7, 6), 0).double()
    assert relative_error(folded(x), module(x)) < 1e-14


@torch.no_grad()
def test_shortcut_goes_into_a_depthwise_convolution():
    module, folded = both_forms(Residual(ConvBN(8, 8, 3, groups=8)).double())
    assert type(folded) is Conv2d
    x = noise_for((2, 8, 7, 6), 0).double()
    assert relative_error(folded(x), module(x)) < 1e-14
    before = folded.weight.clone()
    fold(Residual(folded))  # folding the same convolution again does not change it
    assert torch.equal(folded.weight, before)


@torch.no_grad()
def test_no_shortcut_goes_into_another_convolution():
    module, folded = both_forms(Residual(ConvBN(8, 8)).double())
    assert isinstance(folded, Residual)
    x = noise_for((2, 8, 7, 6), 0).double()
    assert relative_error(folded(x), module(x)) < 1e-14


@torch.no_grad()
def test_local_branch():
    module, folded = both_forms(MKDeConv(6, 5, BN).double())
    assert not [m for m in folded.modules() if isinstance(m, _BatchNorm)]
    assert sum(isinstance(m, nn.Conv2d) for m in folded.modules()) == 1
    x = noise_for((2, 6, 7, 6), 0).double()
    assert relative_error(folded(x), module(x)) < 1e-14


@torch.no_grad()
@pytest.mark.parametrize('size', [(6, 8), (5, 7), (1, 1)])
def test_global_branch(size):
    module, folded = both_forms(WTEMamba(16, 3, BN).double())
    assert isinstance(folded, FoldedWTEMamba)
    assert not [name for name, _ in folded.named_parameters() if name.endswith('_scale')]
    x = noise_for((2, 16, *size), 0).double()
    assert relative_error(folded(x), module(x)) < 1e-13


@torch.no_grad()
def test_transposed_convolution():
    conv, norm = nn.ConvTranspose2d(6, 10, 2, stride=2).double(), nn.BatchNorm2d(10).double()
    randomise(nn.Sequential(conv, norm))
    x = noise_for((2, 6, 3, 4), 0).double()
    assert relative_error(fold_norm(conv, norm)(x), norm(conv(x))) < 1e-14


def test_rounds_once():
    """float32 weights are folded in float64 and rounded once, also after several folds."""
    backbone = trained()
    exact = copy.deepcopy(backbone).double()
    for network in (backbone, exact):
        network.switch_to_deploy()
    state_dict = exact.state_dict()
    for key, value in backbone.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state_dict[key].float()), key


@torch.no_grad()
@pytest.mark.parametrize(('dtype', 'bound'), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize('arch', ['t2', 'b1'])
def test_whole_network(arch, dtype, bound):
    backbone = randomise(MobileMamba(arch, out_indices=(0, 1, 2))).to(dtype)
    image = image_for((2, 3, 97, 130)).to(dtype)
    expected = backbone(image)
    backbone.switch_to_deploy()
    assert not [
        m for m in backbone.modules() if isinstance(m, (_BatchNorm, ConvBN, WTEMamba, MKDeConv, Residual))
    ]
    for out, other in zip(backbone(image), expected):
        assert relative_error(out, other) < bound


@torch.no_grad()
def test_authors_features_after_folding():
    backbone = MobileMamba('b1', out_indices=(0, 1, 2)).eval()
    backbone.load_state_dict(authors_checkpoint('b1'))
    backbone.switch_to_deploy()
    for index, feature in enumerate(backbone(image_for((1, 3, 160, 224))), start=1):
        assert relative_error(feature, golden('b1')[f'feat{index}']) < 1e-5


@torch.no_grad()
def test_built_folded_and_loaded_strictly():
    state_dict = folded_checkpoint()
    backbone = MobileMamba(SMALL, out_indices=(0, 1, 2), deploy=True)
    backbone.load_state_dict(state_dict)
    assert backbone.is_deployed
    image = image_for((2, 3, 64, 96))
    assert relative_error(backbone.eval()(image)[2], trained()(image)[2]) < 1e-5
    assert torch.equal(backbone.train()(image)[2], backbone.eval()(image)[2])  # no batch norm is left


def test_synchronised_batch_norm_folds_too():
    backbone = trained()
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(backbone))
    for network in (backbone, synchronised):
        network.switch_to_deploy()
    state_dict = backbone.state_dict()
    assert all(torch.equal(value, state_dict[key]) for key, value in synchronised.state_dict().items())


def test_folding_leaves_no_trace():
    """Random states and requires_grad are unchanged, and the result can be copied and pickled."""
    backbone = MobileMamba(SMALL)
    state = torch.get_rng_state()
    with torch.inference_mode():
        backbone.switch_to_deploy()
    assert torch.equal(torch.get_rng_state(), state)
    image = image_for((1, 3, 64, 64))
    backbone(image)[0].sum().backward()
    assert backbone.stem[0].weight.grad.abs().sum() > 0
    for twin in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert torch.equal(twin(image)[0], backbone(image)[0])


def test_the_backend_stays():
    backbone = MobileMamba(SMALL, scan_backend='torch', deploy=True)
    assert {module.backend for module in backbone.modules() if hasattr(module, 'backend')} == {'torch'}


@torch.no_grad()
@pytest.mark.parametrize('activation', [None, 'relu', 'silu'])
@pytest.mark.parametrize('adds_shortcut', [True, False])
def test_what_a_fused_convolution_computes(activation, adds_shortcut):
    conv = Conv2d(8, 8).double()
    fused = fuse(conv, activation, adds_shortcut)
    x, shortcut = noise_for((2, 8, 7, 6), 0).double(), noise_for((2, 8, 7, 6), 1).double()
    expected = conv(x) if activation is None else getattr(F, activation)(conv(x))
    inputs = (x, shortcut) if adds_shortcut else (x,)
    assert relative_error(fused(*inputs), expected + shortcut if adds_shortcut else expected) < 1e-14
    with pytest.raises(TypeError, match='adds a shortcut' if adds_shortcut else 'adds no shortcut'):
        fused(*(inputs[:1] if adds_shortcut else (x, shortcut)))
    if adds_shortcut:
        with pytest.raises(ValueError, match='shortcut must have the shape'):
            fused(x, shortcut[:1])


def strides(backbone):
    return {name: weight.stride() for name, weight in backbone.named_parameters()}


def test_layout_of_the_weights_outlives_what_is_done_with_a_network():
    """With C++ kernels, it is the layout of these kernels."""
    backbone = trained()
    backbone.switch_to_deploy()
    expected = strides(backbone)
    weight = backbone.stages[0].blocks[0].ffn0.fn.pw1.weight
    assert (weight.stride(0) == 1) == cpu.has_vectors()
    state_dict = {key: value.contiguous() for key, value in backbone.state_dict().items()}
    twins = [
        copy.deepcopy(backbone),
        pickle.loads(pickle.dumps(backbone)),
        copy.deepcopy(backbone).double().float(),
    ]
    for assign in (True, False):
        twins.append(copy.deepcopy(backbone))
        twins[-1].load_state_dict(state_dict, assign=assign)
    for twin in twins:
        assert strides(twin) == expected
    away = copy.deepcopy(backbone).to('meta')
    assert all(parameter.is_contiguous() for parameter in away.parameters())


@torch.no_grad()
def test_a_convolution_that_was_changed_later():
    """For example, to dilate a backbone for segmentation."""
    conv = Conv2d(6, 6, 3, groups=6)
    x = noise_for((1, 6, 9, 9), 0).contiguous(memory_format=torch.channels_last)
    conv.dilation = conv.padding = (2, 2)
    expected = nn.functional.conv2d(x, conv.weight, conv.bias, padding=2, dilation=2, groups=6)
    torch.testing.assert_close(conv(x), expected)
    assert conv.find_kernel(x) is None


def test_second_call_changes_nothing():
    backbone = randomise(MobileMamba(SMALL))
    backbone.switch_to_deploy()
    modules = list(backbone.modules())
    state_dict = copy.deepcopy(backbone.state_dict())
    backbone.switch_to_deploy()
    assert all(one is other for one, other in zip(modules, backbone.modules()))
    assert all(torch.equal(value, state_dict[key]) for key, value in backbone.state_dict().items())


def test_stays_where_it_is():
    with torch.device('meta'):
        backbone = MobileMamba(SMALL, deploy=True)
    assert {value.device.type for value in backbone.state_dict().values()} == {'meta'}


def test_a_device_without_float64_folds_on_the_cpu(monkeypatch):
    """For Apple's GPUs, simulated by the device of the weights."""
    steps = []
    monkeypatch.setattr(MobileMamba, 'cpu', lambda self: steps.append('cpu'))
    monkeypatch.setattr(MobileMamba, 'to', lambda self, device: steps.append(device.type))
    backbone = MobileMamba(SMALL)
    monkeypatch.setattr(torch.Tensor, 'device', torch.device('mps'))
    with folding(backbone):
        steps.append('fold')
    assert steps == ['cpu', 'fold', 'mps']


def test_frozen_stages_stay_frozen():
    backbone = MobileMamba(SMALL, frozen_stages=1)
    backbone.switch_to_deploy()
    stages = {name.split('.')[1] for name, p in backbone.named_parameters() if p.requires_grad}
    assert stages == {'1', '2'}
    assert not any(module.training for module in backbone.stages[0].modules())
    assert all(module.training for module in backbone.stages[1].modules())


@torch.no_grad()
def test_other_norms_stay():
    # Without our kernels, which would change the last bits of the stem.
    backbone = MobileMamba(SMALL, norm_cfg=GN, scan_backend='torch').eval()
    for norm in (m for m in backbone.modules() if isinstance(m, nn.GroupNorm)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)  # residual branches start at 0
    image = image_for((1, 3, 64, 64))
    state_dict, expected = copy.deepcopy(backbone.state_dict()), backbone(image)[0]
    backbone.switch_to_deploy()
    assert backbone.state_dict().keys() == state_dict.keys()
    assert torch.equal(backbone(image)[0], expected)
    MobileMamba(SMALL, norm_cfg=GN, deploy=True).load_state_dict(state_dict)


@pytest.mark.parametrize('strict', [True, False])
def test_wrong_form_is_an_error(strict):
    plain, folded = MobileMamba(SMALL).state_dict(), folded_checkpoint()
    with pytest.raises(
        CheckpointError, match=r'this checkpoint is in the deployed form, .* build it with deploy=True'
    ):
        MobileMamba(SMALL).load_state_dict(folded, strict=strict)
    part = {key: value for key, value in folded.items() if key.startswith('stages.')}
    with pytest.raises(CheckpointError, match='which cannot be undone'):
        MobileMamba(SMALL).load_state_dict(part, strict=strict)
    with pytest.raises(CheckpointError, match=r'deploy=True, .* call switch_to_deploy\(\), or deploy'):
        MobileMamba(SMALL, deploy=True).load_state_dict(plain, strict=strict)


def test_authors_file_into_a_folded_network():
    with pytest.raises(CheckpointError, match='built with deploy=True, but this checkpoint is not'):
        MobileMamba('t2', deploy=True).load_state_dict(authors_checkpoint('t2'))


def test_init_cfg(tmp_path):
    path = tmp_path / 'folded.pth'
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in folded_checkpoint().items()}), path)
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    backbone = MobileMamba(SMALL, out_indices=(0, 1, 2), deploy=True, init_cfg=init_cfg)
    backbone.init_weights()
    assert torch.equal(backbone.stem[0].weight, folded_checkpoint()['stem.0.weight'])
    with pytest.raises(CheckpointError, match='is in the deployed form'):
        MobileMamba(SMALL, init_cfg=init_cfg).init_weights()
    fresh = MobileMamba(SMALL, deploy=True)
    fresh.init_weights()
    assert all(value.isfinite().all() for value in fresh.state_dict().values())


def test_described():
    assert describe(folded_checkpoint('t2')) == (
        'a MobileMamba T2 in the layout of this package, in the deployed form'
    )


@pytest.fixture
def heads():
    pytest.importorskip('mmpretrain')
    from mmmobilemamba.models.heads import MobileMambaClsHead

    init_default_scope('mmpretrain')  # the scope of its loss
    head = randomise(MobileMambaClsHead(10, 24).double())
    folded = copy.deepcopy(head)
    folded.switch_to_deploy()
    return head, folded


@torch.no_grad()
def test_head(heads):
    head, folded = heads
    x = (noise_for((5, 24), 0).double(),)
    assert relative_error(folded(x), head(x)) < 1e-14
    assert set(folded.state_dict()) == {'head.weight', 'head.bias'}
    built = type(head)(10, 24, deploy=True).double()
    built.load_state_dict(folded.state_dict())
    folded.switch_to_deploy()
    assert torch.equal(built(x), folded(x))


def test_head_and_checkpoints_of_the_other_form(heads, tmp_path):
    head, folded = heads
    with pytest.raises(CheckpointError, match='The head of this checkpoint is in the deployed form'):
        head.load_state_dict(folded.state_dict())
    torch.save(dict(state_dict=head.state_dict()), tmp_path / 'head.pth')
    with pytest.raises(CheckpointError, match='The head is built with deploy=True'):
        load_checkpoint(folded, str(tmp_path / 'head.pth'), strict=False)


def make_neck(norm_cfg, deploy=False):
    pytest.importorskip('mmdet')
    from mmmobilemamba.models.necks import DeconvFPN

    options = dict(num_extra_trans_convs=2, norm_cfg=norm_cfg, act_cfg=dict(type='ReLU'), deploy=deploy)
    return DeconvFPN([24, 40], 16, 5, add_extra_convs='on_output', **options).double()


def maps():
    return [noise_for((2, channels, side, side + 1), 0).double() for channels, side in ((24, 6), (40, 3))]


@torch.no_grad()
def test_neck():
    neck = randomise(make_neck(BN))
    expected, before = neck(maps()), neck.state_dict()
    neck.switch_to_deploy()
    assert not [m for m in neck.modules() if isinstance(m, _BatchNorm)]
    assert all(key.endswith(('conv.weight', 'conv.bias')) for key in neck.state_dict())
    built = make_neck(BN, deploy=True)
    built.load_state_dict(neck.state_dict())
    for out, other, same in zip(neck(maps()), expected, built(maps())):
        assert relative_error(out, other) < 1e-13
        assert torch.equal(out, same)
    with pytest.raises(CheckpointError, match='The neck is built with deploy=True'):
        built.load_state_dict(before)
    with pytest.raises(CheckpointError, match='The neck of this checkpoint is in the deployed form'):
        make_neck(BN).load_state_dict(neck.state_dict())


@torch.no_grad()
def test_a_convolution_of_another_kind_is_left_alone():
    """Weight standardisation would revert the fold."""
    pytest.importorskip('mmdet')
    from mmmobilemamba.models.necks import DeconvFPN

    options = dict(conv_cfg=dict(type='ConvWS'), norm_cfg=BN, num_extra_trans_convs=1)
    neck = randomise(DeconvFPN([24, 40], 16, 3, **options).double())
    expected = neck(maps())
    neck.switch_to_deploy()
    assert neck.lateral_convs[0].with_norm and isinstance(neck.lateral_convs[0].norm, _BatchNorm)
    for out, other in zip(neck(maps()), expected):
        assert relative_error(out, other) < 1e-13


@torch.no_grad()
@pytest.mark.parametrize('norm_cfg', [None, GN])
def test_neck_without_batch_norm(norm_cfg):
    neck = make_neck(norm_cfg)
    expected = neck(maps())
    neck.switch_to_deploy()
    assert all(torch.equal(out, other) for out, other in zip(neck(maps()), expected))
    make_neck(norm_cfg, deploy=True).load_state_dict(neck.state_dict())
    if norm_cfg is None:
        with pytest.raises(
            CheckpointError, match=r'or was trained without norm layers: then build it without'
        ):
            make_neck(BN).load_state_dict(neck.state_dict())


@torch.no_grad()
def test_autocast():
    backbone = trained()
    image = image_for((2, 3, 64, 96))
    exact = backbone(image)[2]
    backbone.switch_to_deploy()
    with torch.autocast('cpu', torch.bfloat16):
        out = backbone(image)[2]
    assert out.dtype == torch.bfloat16
    assert relative_error(out, exact) < 0.03


@torch.no_grad()
def test_an_image_of_one_channel_stays_in_the_fast_format():
    """For one channel, both memory formats are equal, and PyTorch would continue in the other one."""
    backbone = randomise(MobileMamba(SMALL, in_channels=1))
    formats = []
    for stage in backbone.stages:
        stage.register_forward_pre_hook(lambda _, x: formats.append(x[0].stride(1)))
    image = image_for((1, 3, 64, 96))[:, :1]
    expected = backbone(image)[0]
    backbone.switch_to_deploy()
    assert relative_error(backbone(image)[0], expected) < 1e-5
    assert formats == [1] * 6
