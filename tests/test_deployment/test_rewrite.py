"""The network rewritten for ONNX Runtime is equivalent to its source."""

import copy

import pytest
import torch
from torch import nn

from mmmobilemamba import MobileMamba
from mmmobilemamba.deployment import onnx_file
from mmmobilemamba.deployment.rewrite import ExportedSS2D, pad_stem, rewrite, widen_local_part
from mmmobilemamba.models.layers import SS2D, FoldedMixer

from ..conftest import image_for, relative_error
from ..helpers import ODD, needs_export, randomise


def folded(arch=ODD):
    """A folded backbone."""
    torch.manual_seed(0)
    backbone = randomise(MobileMamba(arch, out_indices=(0, 1, 2), scan_backend='export')).eval()
    backbone.switch_to_deploy()
    return backbone.requires_grad_(False)


def count(network, kind):
    return sum(isinstance(module, kind) for module in network.modules())


def test_padded_stem():
    """Convolutions inside the stem get more inputs and outputs."""
    convs = [nn.Conv2d(c, d, 3, stride=2, padding=1) for c, d in ((3, 5), (5, 10), (10, 16))]
    stem = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2]).double().requires_grad_(False)
    image = image_for((2, 3, 64, 96)).double()
    expected = stem(image)
    pad_stem(stem)
    assert [tuple(conv.weight.shape[:2]) for conv in convs] == [(8, 3), (12, 8), (16, 12)]
    assert [(conv.out_channels, conv.in_channels) for conv in convs] == [(8, 3), (12, 8), (16, 12)]
    assert relative_error(stem(image), expected) < 1e-12


@pytest.mark.parametrize(
    'between', [nn.BatchNorm2d(5), nn.Conv2d(5, 5, 3, groups=5), nn.Conv2d(5, 5, 1, bias=False)]
)
def test_other_stems_stay(between):
    stem = nn.Sequential(nn.Conv2d(3, 5, 3), between, nn.Conv2d(5, 8, 3))
    pad_stem(stem)
    assert stem[0].out_channels == 5 and stem[2].in_channels == 5


# With one channel, the convolution of the local part has one group, like a dense one.
@pytest.mark.parametrize('local_ratio', [0.2, 0.03])
@needs_export
def test_wider_local_part(local_ratio):
    arch = dict(ODD, global_ratios=(0.7,) * 3, local_ratios=(local_ratio,) * 3)
    backbone = folded(arch).double()
    mixer = next(module for module in backbone.modules() if isinstance(module, FoldedMixer))
    before = mixer.splits
    assert before[1] == (9 if local_ratio == 0.2 else 1) and before[2] > 0
    x = torch.randn(2, sum(before), 9, 7, dtype=torch.float64)
    expected = mixer(x, x)
    widen_local_part(mixer)
    assert mixer.splits == (before[0], before[1] + before[2], 0)
    assert relative_error(mixer(x, x), expected) < 1e-12


@needs_export
def test_exported_program():
    """The program contains the rewritten layers and is equivalent to the network, which is not modified."""
    backbone, image = folded(), image_for((2, 3, 96, 128))
    expected = backbone(image)
    state_dict = copy.deepcopy(backbone.state_dict())
    program = onnx_file.to_program(backbone, image, dynamic_sizes=False)
    assert program.state_dict['stem.0.conv.weight'].shape[0] == 8  # 6 before
    assert any(key.endswith('ss2d.u_proj.weight') for key in program.state_dict)
    for found, exact in zip(program.module()(image), expected):
        assert relative_error(found, exact) < 1e-5
    assert count(backbone, SS2D) == 4
    assert all(torch.equal(value, state_dict[key]) for key, value in backbone.state_dict().items())


def test_what_is_rewritten():
    rewritten = rewrite(folded())
    assert count(rewritten, SS2D) == 0 and count(rewritten, ExportedSS2D) == 4
    assert all(m.splits[2] == 0 for m in rewritten.modules() if isinstance(m, FoldedMixer))
    assert not any(module.training for module in rewritten.modules())


@pytest.mark.parametrize('norm_cfg', [dict(type='BN'), dict(type='GN', num_groups=1)])
def test_what_is_not_folded_stays(norm_cfg):
    """Layers that are not folded, or have a norm that cannot be folded, are not rewritten."""
    backbone = MobileMamba(ODD, norm_cfg=norm_cfg)
    if norm_cfg['type'] == 'GN':
        backbone.switch_to_deploy()
    rewritten = rewrite(backbone)
    assert count(rewritten, SS2D) == count(backbone, SS2D)
    assert [tuple(p.shape) for p in rewritten.parameters()] == [tuple(p.shape) for p in backbone.parameters()]
