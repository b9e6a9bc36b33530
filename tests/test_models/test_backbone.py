"""Features that OpenMMLab users expect of a backbone."""

import copy
import io
import pickle

import pytest
import torch
from mmengine.model import ExponentialMovingAverage, revert_sync_batchnorm
from mmengine.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmmobilemamba import MobileMamba
from mmmobilemamba.models import set_backend
from mmmobilemamba.models.backbones.arch import ARCHS, resolve_arch, stage_splits
from mmmobilemamba.models.backbones.blocks import Block
from mmmobilemamba.models.backbones.recompute import frozen_statistics
from mmmobilemamba.models.layers import ss2d
from mmmobilemamba.ops import norm_gate

from ..conftest import authors_checkpoint, image_for, relative_error
from ..helpers import SMALL, small


@pytest.mark.parametrize(
    ('out_indices', 'expected'),
    [(-1, (2,)), (0, (0,)), ((0, 1, 2), (0, 1, 2)), ([2, 0], (0, 2)), ((-1, 1), (1, 2)), ((-3,), (0,))],
)
def test_out_indices(out_indices, expected):
    backbone = small(out_indices=out_indices).eval()
    outs = backbone(image_for((2, 3, 70, 100)))
    assert isinstance(outs, tuple)
    assert backbone.out_indices == expected
    assert backbone.out_channels == tuple((32, 48, 64)[index] for index in expected)
    assert backbone.strides == tuple((16, 32, 64)[index] for index in expected)
    sizes = [(5, 7), (3, 4), (2, 2)]
    assert [tuple(out.shape) for out in outs] == [
        (2, backbone.out_channels[place], *sizes[index]) for place, index in enumerate(expected)
    ]
    assert len(backbone.stages) == expected[-1] + 1


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_maps_are_contiguous(memory_format):
    """mmcv's RoIAlign on a CPU silently assumes contiguous maps."""
    image = image_for((2, 3, 96, 160)).contiguous(memory_format=memory_format)
    outs = small(out_indices=(0, 1, 2)).eval()(image)
    assert all(out.is_contiguous() for out in outs)


@pytest.mark.parametrize('size', [(1, 1), (1, 37), (2, 3), (63, 64), (65, 96), (224, 33)])
def test_any_size(size):
    outs = small(out_indices=(0, 1, 2)).eval()(image_for((1, 3, *size)))
    for out, stride in zip(outs, (16, 32, 64)):
        assert out.shape[2:] == tuple(-(-side // stride) for side in size)
        assert out.isfinite().all()


@pytest.mark.parametrize('channels', [1, 4])
def test_image_channels(channels):
    backbone = small(in_channels=channels).eval()
    assert backbone(torch.rand(1, channels, 64, 64))[0].shape == (1, 64, 1, 1)
    with pytest.raises(RuntimeError, match='channels'):
        backbone(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize(
    ('kwargs', 'error', 'message'),
    [
        (dict(arch='b3'), ValueError, r"'b3' is not one of \['b1', 'b2', 'b4', 's6', 't2', 't4'\]"),
        (dict(arch=7), TypeError, 'one of .* or a dict, not int'),
        (dict(arch=dict(embed_dims=(8, 8, 8))), ValueError, r"missing: \['depths'.*unknown: \[\]"),
        (dict(arch=dict(SMALL, widths=3)), ValueError, r"unknown: \['widths'\]"),
        (dict(arch=dict(SMALL, depths=(1, 2))), ValueError, r"arch\['depths'\] must hold three values"),
        (dict(arch=dict(SMALL, depths=(1, 0, 1))), ValueError, 'three positive whole numbers'),
        (dict(arch=dict(SMALL, embed_dims=(36, 48, 64))), ValueError, 'multiple of 8, not 36'),
        (dict(arch=dict(SMALL, kernel_sizes=(7, 4, 3))), ValueError, 'must be odd'),
        (dict(arch=dict(SMALL, global_ratios=(2.0, 0.5, 0.5))), ValueError, 'Stage 0 would split its 32'),
        (dict(arch='t2', drop_path_rate=1.0), ValueError, 'from 0 up to, but not including, 1'),
        (dict(arch='t2', out_indices=3), ValueError, 'The stages are 0 to 2'),
        (dict(arch='t2', out_indices=(-4, 0)), ValueError, 'names a stage that does not exist'),
        (dict(arch='t2', out_indices=(2, -1)), ValueError, 'each once'),
        (dict(arch='t2', out_indices=()), ValueError, 'at least one stage'),
        (dict(arch='t2', out_indices='all'), TypeError, 'an int or a sequence of ints'),
        (dict(arch='t2', in_channels=0), ValueError, 'from 1 up, not 0'),
        (dict(arch='t2', norm_cfg=dict(type='IN')), ValueError, 'affine=True'),
        (dict(arch='t2', frozen_stages=1.0), ValueError, r'not 1.0'),
        (dict(arch='t2', frozen_stages=4), ValueError, r'-1 \(none\), 0 \(the stem\) or 1 to 3'),
    ],
)
def test_wrong_arguments(kwargs, error, message):
    with pytest.raises(error, match=message):
        MobileMamba(**kwargs)


def test_splits_of_the_paper():
    table = dict(
        t2=[(112, 28, 4), (192, 54, 26), (224, 110, 34)],
        t4=[(144, 32, 0), (256, 73, 39), (272, 134, 42)],
        s6=[(160, 32, 0), (272, 76, 36), (272, 134, 42)],
        b1=[(160, 40, 0), (256, 75, 45), (272, 134, 42)],
    )
    for name, splits in table.items():
        assert [stage_splits(resolve_arch(name), index) for index in range(3)] == splits
    assert resolve_arch('B1') == ARCHS['b1'] == ARCHS['b2'] == ARCHS['b4']


def test_drop_path_rises_linearly_and_keeps_its_steps_when_stages_are_not_built():
    for out_indices, built in ((2, 7), (0, 2)):
        backbone = MobileMamba('b1', out_indices=out_indices)
        rates = [block.drop_path.drop_prob for stage in backbone.stages for block in stage.blocks]
        assert rates == pytest.approx([0.03 * number / 6 for number in range(built)])


@pytest.mark.parametrize('frozen', [-1, 0, 1, 2, 3])
def test_frozen_stages(frozen):
    backbone = small(frozen_stages=frozen)
    parts = [backbone.stem, *backbone.stages]

    def check(training):
        for index, part in enumerate(parts):
            is_frozen = index <= frozen
            assert all(p.requires_grad != is_frozen for p in part.parameters())
            assert all(m.training == (training and not is_frozen) for m in part.modules())

    check(training=True)  # frozen by the constructor, because DDP wraps the model before train()
    assert backbone.eval() is backbone
    check(training=False)
    assert backbone.train() is backbone
    check(training=True)

    before = {name: value.clone() for name, value in backbone.named_buffers()}
    backbone(image_for((2, 3, 128, 128)))
    for name, value in backbone.named_buffers():
        index = 0 if name.startswith('stem') else int(name.split('.')[1]) + 1
        assert torch.equal(value, before[name]) == (index <= frozen), name


def test_norm_eval():
    backbone = small(norm_eval=True).train()
    norms = [m for m in backbone.modules() if isinstance(m, _BatchNorm)]
    assert not any(norm.training for norm in norms)
    assert all(norm.weight.requires_grad for norm in norms)
    assert backbone.training and backbone.stages[0].training
    before = [norm.running_mean.clone() for norm in norms]
    backbone(image_for((2, 3, 64, 64)))
    assert all(torch.equal(norm.running_mean, old) for norm, old in zip(norms, before))


@pytest.mark.parametrize('norm_eval', [False, True])
def test_with_cp_changes_nothing(norm_eval):
    image, weights = image_for((2, 3, 96, 96)), small(out_indices=(0, 1, 2)).state_dict()
    results = []
    for with_cp in (False, True):
        backbone = small(out_indices=(0, 1, 2), with_cp=with_cp, norm_eval=norm_eval).train()
        backbone.load_state_dict(weights)
        torch.manual_seed(0)
        for stage in backbone.stages:
            for block in stage.blocks:
                block.drop_path.drop_prob = 0.3
        x = image.clone().requires_grad_()
        outs = backbone(x)
        sum(out.square().mean() for out in outs).backward()
        gradients = {name: p.grad for name, p in backbone.named_parameters()}
        results.append((outs, x.grad, gradients, dict(backbone.named_buffers())))
    plain, saved = results
    for a, b in zip(plain[0], saved[0]):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(plain[1], saved[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(plain[2], saved[2], rtol=1e-4, atol=1e-5)
    # Recomputing a block must not update its statistics twice.
    torch.testing.assert_close(plain[3], saved[3], rtol=1e-5, atol=1e-6)


def test_recomputing_leaves_momentum_and_counters_alone():
    norms = nn.ModuleList(
        [nn.BatchNorm2d(2), nn.SyncBatchNorm(2, momentum=None), nn.BatchNorm2d(2, track_running_stats=False)]
    )
    counters = [norm.num_batches_tracked for norm in norms]
    with frozen_statistics(norms)[1]:
        assert [norm.momentum for norm in norms] == [0.0, 0.0, 0.0]
        for norm in norms[:2]:
            norm.num_batches_tracked += 1  # SyncBN requires a counter
    assert [norm.momentum for norm in norms] == [0.1, None, 0.1]
    assert all(norm.num_batches_tracked is counter for norm, counter in zip(norms, counters))
    assert counters[0] == counters[1] == 0 and counters[2] is None


@pytest.mark.parametrize('out_indices', [0, 1, 2, (0, 1), (0, 1, 2)])
def test_every_parameter_gets_a_gradient(out_indices):
    backbone = small(out_indices=out_indices).train()
    backbone.init_weights()
    # A zero-initialised norm weight blocks the gradient of its branch at first.
    for module in backbone.modules():
        if isinstance(module, _BatchNorm):
            nn.init.ones_(module.weight)
    sum(out.square().mean() for out in backbone(image_for((4, 3, 96, 128)))).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize('again', [False, True])
def test_initialisation(again):
    """It follows the paper, with and without a call of ``init_weights``."""
    backbone = MobileMamba('b1')
    if again:
        backbone.init_weights()
    zero = {name for name, p in backbone.named_parameters() if name.endswith('bn.weight') and not p.any()}
    expected = set()
    for s, depth in enumerate((2, 3, 2)):
        for b in range(depth):
            block = f'stages.{s}.blocks.{b}'
            expected |= {f'{block}.{part}.fn.bn.weight' for part in ('dw0', 'dw1')}
            expected |= {f'{block}.{part}.fn.pw2.bn.weight' for part in ('ffn0', 'ffn1')}
            expected.add(f'{block}.mixer.fn.proj.bn.weight')
    expected |= {f'stages.{s}.downsample.{f}.fn.pw2.bn.weight' for s in (1, 2) for f in ('ffn0', 'ffn1')}
    assert zero == expected

    ss2d = backbone.stages[0].blocks[0].mixer.fn.global_op.ss2d
    assert torch.equal(ss2d.A_log, torch.zeros(640, 1)) and torch.equal(ss2d.D, torch.ones(640))
    for weight in (ss2d.dt_proj_weight, ss2d.dt_proj_bias):
        assert weight.min() >= 0 and weight.max() <= 0.1
        assert weight.mean().item() == pytest.approx(0.05, abs=0.01)
    bound = 320**-0.5  # nn.Linear(320, 12)
    assert ss2d.x_proj_weight.abs().max() <= bound
    assert ss2d.x_proj_weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    wte = backbone.stages[0].blocks[0].mixer.fn.global_op
    assert (wte.base_scale == 1).all() and torch.equal(wte.wavelet_scale, torch.full((1, 640, 1, 1), 0.1))


def test_a_new_block_doubles_its_input():
    backbone = MobileMamba(SMALL, out_indices=0)
    backbone.init_weights()
    block = backbone.eval().stages[0].blocks[0]
    assert isinstance(block, Block)
    x = torch.rand(2, 32, 5, 7)
    torch.testing.assert_close(block(x), 2 * x)


def test_init_cfg_of_other_kinds_comes_on_top():
    backbone = MobileMamba(SMALL, init_cfg=dict(type='Constant', layer='Conv2d', val=0.5))
    backbone.init_weights()
    assert (backbone.stem[0].conv.weight == 0.5).all()
    assert not backbone.stages[0].blocks[0].dw0.fn.bn.weight.any()


def test_the_log_of_the_initialisation_is_true(tmp_path, monkeypatch):
    """mmengine logs how each parameter whose mean changed was initialised."""
    path = tmp_path / 'weights.pth'
    torch.save(small().state_dict(), path)
    names = ['stem.0.conv.weight', 'stages.0.blocks.0.dw0.fn.bn.weight']
    constant = dict(type='Constant', layer='Linear', val=0.5)  # the backbone has none
    pretrained = dict(type='Pretrained', checkpoint=str(path))
    found = {}
    for kind, init_cfg in dict(none=None, constant=constant, pretrained=pretrained).items():
        backbone = MobileMamba(SMALL, init_cfg=init_cfg)
        parameters = dict(backbone.named_parameters())

        def note(self, kind=kind, parameters=parameters):
            found[kind] = [self._params_init_info[parameters[name]]['init_info'] for name in names]

        monkeypatch.setattr(MobileMamba, '_dump_init_info', note)
        backbone.init_weights()
        assert backbone.is_init and backbone.init_cfg == init_cfg
    as_in_the_paper = 'Initialized by MobileMambaInit, as in the paper'
    for kind in ('none', 'constant'):
        assert found[kind][0] == as_in_the_paper
        assert found[kind][1].startswith('The value is the same')  # it was already zero
    assert found['pretrained'] == [f'Loaded from {path}'] * 2


def test_the_backend_of_other_modules_stays():
    network = nn.Sequential(small(), nn.Identity())
    network[1].backend = 'theirs'
    set_backend(network, 'naive')
    assert network[1].backend == 'theirs'
    assert {m.backend for m in network[0].modules() if hasattr(m, 'backend')} == {'naive'}
    with pytest.raises(ValueError, match="backend 'theirs' is not one of"):
        set_backend(network, 'theirs')


def test_wavelet_is_not_part_of_the_state():
    names = [*MobileMamba('t2').state_dict(), *dict(MobileMamba('t2').named_buffers())]
    assert not [name for name in names if 'filter' in name or 'wt_' in name]


def test_batch_independence():
    for arch in ('t2', 'b1'):
        backbone = MobileMamba(arch, out_indices=(0, 1, 2)).eval()
        backbone.load_state_dict(authors_checkpoint(arch))
        image = image_for((3, 3, 97, 64))
        with torch.no_grad():
            together = backbone(image)
            for n in range(3):
                for whole, alone in zip(together, backbone(image[n : n + 1])):
                    assert relative_error(alone, whole[n : n + 1]) < 1e-5


half_on_cpu = pytest.mark.skipif(torch.__version__ < '2.4', reason='autocast on a CPU knew bfloat16 only')


@pytest.mark.parametrize('dtype', [torch.bfloat16, pytest.param(torch.float16, marks=half_on_cpu)])
def test_autocast(dtype, monkeypatch):
    backbone = small(out_indices=(0, 1, 2)).train()
    scan_types = []

    def gate(y, *args):
        scan_types.append(y.dtype)
        return norm_gate(y, *args)

    monkeypatch.setattr(ss2d, 'norm_gate', gate)
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=1e-3)
    image, losses = image_for((4, 3, 64, 64)), []
    for _ in range(10):
        with torch.autocast('cpu', dtype=dtype):
            loss = sum(out.float().square().mean() for out in backbone(50 * image))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert all(p.grad.isfinite().all() for p in backbone.parameters())
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert set(scan_types) == {torch.float32}


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
def test_whole_network_in_another_type(dtype):
    backbone = small().eval()
    image = image_for((1, 3, 64, 64))
    exact = copy.deepcopy(backbone).double()(image.double())[0]
    out = backbone.to(dtype)(image.to(dtype))[0]
    assert out.dtype == dtype
    assert relative_error(out.detach(), exact.detach()) < (0.1 if dtype == torch.bfloat16 else 1e-12)


@torch.no_grad()
def test_copies_agree():
    backbone, image = small().eval(), image_for((1, 3, 64, 80))
    expected = backbone(image)[0]
    buffer = io.BytesIO()
    torch.save(backbone.state_dict(), buffer)
    buffer.seek(0)
    loaded = MobileMamba(SMALL).eval()
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    average = ExponentialMovingAverage(backbone, update_buffers=True).eval()
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone)), loaded, average):
        assert torch.equal(other(image)[0], expected)


def test_meta_device_and_assign():
    backbone, image = small().eval(), image_for((1, 3, 64, 64))
    with torch.device('meta'):
        empty = MobileMamba(SMALL)
    assert all(p.is_meta for p in empty.parameters())
    empty.load_state_dict(backbone.state_dict(), assign=True)
    assert torch.equal(empty.eval()(image)[0], backbone(image)[0])
    with torch.device('meta'):
        empty = MobileMamba(SMALL)
    empty.to_empty(device='cpu').init_weights()
    assert empty.eval()(image)[0].isfinite().all()


def test_channels_last_gives_the_same():
    backbone, image = small().eval(), image_for((2, 3, 96, 64))
    expected = backbone(image)[0]
    found = backbone.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last))[0]
    assert relative_error(found.detach(), expected.detach()) < 1e-5


def test_norm_cfg():
    backbone = MobileMamba(SMALL, norm_cfg=dict(type='GN', num_groups=2)).train()
    assert not [m for m in backbone.modules() if isinstance(m, _BatchNorm)]
    assert backbone(image_for((1, 3, 64, 64)))[0].isfinite().all()
    synced = MobileMamba(SMALL, norm_cfg=dict(type='SyncBN'))
    assert set(synced.state_dict()) == set(MobileMamba(SMALL).state_dict())
    assert revert_sync_batchnorm(synced).eval()(image_for((1, 3, 64, 64)))[0].shape == (1, 64, 1, 1)


def test_registered_for_every_codebase():
    for scope in ('mmengine', 'mmdet', 'mmseg', 'mmpretrain', 'mmpose'):
        backbone = MODELS.build(dict(type='MobileMamba', arch='t2', _scope_=scope))
        assert type(backbone) is MobileMamba


@torch.no_grad()
def test_mixers_without_identity_stay_in_channels_last():
    """Such as that of B1's first stage: concatenating an empty map would change the memory format."""
    backbone, formats = MobileMamba('b1', out_indices=0).eval(), []
    for block in backbone.stages[0].blocks:
        assert block.mixer.fn.splits[2] == 0
        block.mixer.fn.proj.register_forward_pre_hook(
            lambda _, args: formats.append(args[0].is_contiguous(memory_format=torch.channels_last))
        )
    backbone(torch.rand(2, 3, 64, 64))
    assert formats == [True, True]


@pytest.mark.parametrize(
    ('image', 'what'),
    [
        (torch.zeros(3, 64, 64), r'torch\.float32 of shape \(3, 64, 64\)'),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), r'torch\.uint8 of shape \(1, 3, 64, 64\)'),
    ],
    ids=['no_batch', 'pixels'],
)
def test_images_that_are_none(image, what):
    """torch's message would be "required rank 4 tensor to use channels_last format"."""
    with pytest.raises(ValueError, match=rf'\(N, C, H, W\), and this is {what}: call image\.float\(\)'):
        small().eval()(image)
