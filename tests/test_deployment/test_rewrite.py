"""What is rewritten for ONNX Runtime stays the same network."""

import copy

import pytest
import torch
from torch import nn

from mmmobilemamba import MobileMamba
from mmmobilemamba.deployment import onnx_file
from mmmobilemamba.deployment.rewrite import ExportedSS2D, pad_stem, rewrite, widen_local_part
from mmmobilemamba.models.backbones.mobilemamba import Mixer
from mmmobilemamba.models.layers import SS2D

from ..conftest import image_for, relative_error
from ..test_models.test_deploy import SMALL, randomise


@pytest.fixture
def backbone():
    """Folded, in float64."""
    torch.manual_seed(0)
    backbone = randomise(MobileMamba(SMALL, out_indices=(0, 1, 2), scan_backend='export')).eval()
    backbone.switch_to_deploy()
    return backbone.double().requires_grad_(False)


def count(network, kind):
    return sum(isinstance(module, kind) for module in network.modules())


def test_padded_stem(backbone):
    image = image_for((2, 3, 64, 96)).double()
    expected = backbone.stem(image)
    pad_stem(backbone.stem)
    convs = [layer for layer in backbone.stem if isinstance(layer, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [8, 12, 24, 48]  # 6, 12, 24, 48 before
    assert [len(conv.weight) for conv in convs] == [8, 12, 24, 48]
    assert relative_error(backbone.stem(image), expected) < 1e-12


def test_wider_local_part(backbone):
    mixer = next(module for module in backbone.modules() if isinstance(module, Mixer) and module.splits[2])
    before = mixer.splits
    x = torch.randn(2, sum(before), 9, 7, dtype=torch.float64)
    assert (x < 0).any()  # which a ReLU would show
    expected = mixer(x)
    widen_local_part(mixer)
    assert mixer.splits == (before[0], before[1] + before[2], 0)
    assert relative_error(mixer(x), expected) < 1e-12


def test_exported_program(backbone):
    image = image_for((2, 3, 96, 128))
    backbone.float()
    expected = backbone(image)
    state_dict = copy.deepcopy(backbone.state_dict())
    program = onnx_file.to_program(backbone, image, dynamic_sizes=False)
    with torch.no_grad():
        for found, exact in zip(program.module()(image), expected):
            assert relative_error(found, exact) < 1e-5
    assert [module for module in backbone.modules() if isinstance(module, SS2D)]
    assert all(torch.equal(value, state_dict[key]) for key, value in backbone.state_dict().items())


def test_what_is_rewritten(backbone):
    scans = count(backbone, SS2D)
    rewritten = rewrite(backbone)
    assert scans == 4 and count(rewritten, SS2D) == 0 and count(rewritten, ExportedSS2D) == scans
    assert all(m.splits[2] == 0 for m in rewritten.modules() if isinstance(m, Mixer))


@pytest.mark.parametrize('norm_cfg', [dict(type='BN'), dict(type='GN', num_groups=1)])
def test_what_is_not_folded_stays(norm_cfg):
    """Before folding, and with a norm that cannot be."""
    backbone = MobileMamba(SMALL, norm_cfg=norm_cfg)
    if norm_cfg['type'] == 'GN':
        backbone.switch_to_deploy()
    rewritten = rewrite(backbone)
    assert count(rewritten, SS2D) == count(backbone, SS2D)
    assert [tuple(p.shape) for p in rewritten.parameters()] == [tuple(p.shape) for p in backbone.parameters()]
