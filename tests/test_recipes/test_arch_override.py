"""One override changes the arch of every downstream recipe."""

import pytest
import torch
from mmengine.registry import MODELS

from mmmobilemamba.models.backbones.arch import ARCHS
from mmmobilemamba.models.checkpoint import CheckpointError

from ..conftest import authors_checkpoint
from .recipes import DETECTORS, SEGMENTORS, build, load

LEAVES = [*DETECTORS, *SEGMENTORS]


def override(name, arch):
    """A recipe with ``--cfg-options model.backbone.arch=ARCH``."""
    config = load(name)
    config.merge_from_dict({'model.backbone.arch': arch})
    return config


def widths_of(model):
    """Channels that the necks and heads of a model expect from its backbone."""
    if not model.with_neck:
        return {head.in_index: head.in_channels for head in (model.decode_head, model.auxiliary_head)}
    neck = model.neck
    if hasattr(neck, 'lateral_convs'):
        return {index: conv.conv.in_channels for index, conv in enumerate(neck.lateral_convs)}
    return dict(enumerate(model.bbox_head.in_channels[:2]))


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('name', LEAVES)
def test_widths_follow(name, arch):
    model = build(override(name, arch)).eval()
    dims = ARCHS[arch]['embed_dims']
    expected = dict(enumerate(dims))
    if name.startswith('ssd'):
        expected = dict(enumerate(dims[:2]))
        assert tuple(model.bbox_head.in_channels) == (*dims[:2], 512, 256, 256, 128)
    elif name in ('deeplabv3', 'pspnet'):
        expected = {1: dims[1], 2: dims[2]}
    assert widths_of(model) == expected
    assert model.backbone.out_channels == dims[: 2 if name.startswith('ssd') else 3]
    image = torch.empty(1, 3, 96, 64, device='meta')
    with torch.no_grad():
        if name in SEGMENTORS:
            stride = 16 if name == 'fpn' else 64
            assert model(image, mode='tensor').shape == (1, 150, -(-96 // stride), -(-64 // stride))
        else:
            head = model.rpn_head if name == 'maskrcnn' else model.bbox_head
            classes, boxes = head(model.extract_feat(image))
            finest = dict(retinanet=8, maskrcnn=4).get(name, 16)
            assert classes[0].shape[2:] == boxes[0].shape[2:] == (96 // finest, 64 // finest)
            assert len(classes) == (6 if name.startswith('ssd') else 5)


@pytest.mark.parametrize('arch', ['t2', 's6'])
@pytest.mark.parametrize('name', LEAVES)
def test_forward(name, arch):
    """Outputs are finite, and differ between two images."""
    model = build(override(name, arch), device='cpu')
    model.init_weights()
    model.eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        if name == 'maskrcnn':
            outs = [*model.rpn_head(model.extract_feat(image))[0]]
        else:
            outs = model(image, mode='tensor')
            outs = [outs] if isinstance(outs, torch.Tensor) else [*outs[0], *outs[1]]
    assert all(out.isfinite().all() for out in outs)
    assert any(not torch.equal(out[0], out[1]) for out in outs)


@pytest.mark.parametrize('name', LEAVES)
def test_pretrained_weights_are_overridden_alike(name, tmp_path):
    """The only other change that is needed; weights of the original arch are refused."""
    path = tmp_path / 'mobilemamba_t2.pth'
    weights = authors_checkpoint('t2')
    torch.save(weights, path)
    config = override(name, 't2')
    config.merge_from_dict({'model.backbone.init_cfg.checkpoint': str(path)})
    model = MODELS.build(config.model)
    model.init_weights()
    assert torch.equal(model.backbone.stem[0].conv.weight, weights['patch_embed.0.c.weight'])

    config.model.backbone.arch = 's6'
    with pytest.raises(CheckpointError, match='looks like a MobileMamba T2'):
        MODELS.build(config.model).init_weights()
