"""Widths by name: where they are replaced and where not, and errors of wrong names."""

import pytest
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmmobilemamba import MobileMamba
from mmmobilemamba.models.backbones.arch import ARCHS
from mmmobilemamba.models.match_widths import match_widths


class Recorder(nn.Module):
    """Keeps the arguments it was built with."""

    def __init__(self, backbone, **model):
        super().__init__()
        self.backbone = MODELS.build(backbone)
        self.model = model


@pytest.fixture
def built(monkeypatch):
    """A function that builds a ``Recorder``."""
    monkeypatch.setitem(MODELS.module_dict, 'Recorder', Recorder)

    def build(backbone=None, **model):
        backbone = {'type': 'MobileMamba', **(backbone or dict(arch='t2'))}
        return MODELS.build(dict(type='match_widths', model_type='Recorder', backbone=backbone, **model))

    return build


@pytest.mark.parametrize('arch', ARCHS)
def test_names_become_widths(built, arch):
    fine, middle, coarse = ARCHS[arch]['embed_dims']
    found = built(
        dict(arch=arch),
        neck=dict(in_channels=['stage0', 'stage1', 'stage2'], out_channels=256),
        bbox_head=dict(in_channels=('stage0', 'stage1', 512), out_channels='stage1'),
        heads=[dict(in_channels='stage2'), dict(inner=dict(in_channels='stage0'))],
    ).model
    assert found == dict(
        neck=dict(in_channels=[fine, middle, coarse], out_channels=256),
        bbox_head=dict(in_channels=(fine, middle, 512), out_channels=middle),
        heads=[dict(in_channels=coarse), dict(inner=dict(in_channels=fine))],
    )


def test_every_key_of_channels(built):
    """All names that heads use, at any depth; not keys that merely contain the word."""
    fine, middle, coarse = ARCHS['t2']['embed_dims']
    found = built(
        decode_head=dict(channels='stage1', c1_in_channels='stage0', feat_channels=['stage2', 256]),
        panoptic_head=dict(pixel_decoder=dict(in_channels=['stage0', 'stage1', 'stage2'])),
        neck=[dict(in_channels='stage0'), dict(in_channels=[8, 8])],
        other=dict(channels_of='stage0', mychannels='stage0'),
    ).model
    assert found == dict(
        decode_head=dict(channels=middle, c1_in_channels=fine, feat_channels=[coarse, 256]),
        panoptic_head=dict(pixel_decoder=dict(in_channels=[fine, middle, coarse])),
        neck=[dict(in_channels=fine), dict(in_channels=[8, 8])],
        other=dict(channels_of='stage0', mychannels='stage0'),
    )


def test_result_is_the_plain_model(built):
    """The backbone gets its config unchanged, and the model has no trace of the wrapper."""
    model = built(dict(arch='t2', out_indices=(0, 1)), neck=dict(in_channels='stage0'))
    assert type(model) is Recorder and type(model.backbone) is MobileMamba
    assert model.backbone.out_channels == (144, 272)
    assert list(model.model) == ['neck']


def test_backbones_with_a_scope(built):
    """As in mmaction2's configs with mmpretrain; in mmpretrain itself, the name has no scope."""
    pytest.importorskip('mmpretrain')
    with DefaultScope.overwrite_default_scope('mmengine'):
        model = built(dict(arch='t2', type='mmpretrain.MobileMamba'), head=dict(in_channels='stage2'))
    assert type(model.backbone) is MobileMamba and model.model == dict(head=dict(in_channels=368))


def test_other_arguments_stay(built):
    """Other keys can have any strings; numbers, None and nested settings are unchanged."""
    model = dict(
        neck=dict(type='FPN', in_channels=[1, 2], out_channels=3, add_extra_convs='on_input', norm_cfg=None),
        train_cfg=dict(name='stage0', sampler=dict(type='stage1')),
        data_preprocessor=None,
    )
    assert built(**model).model == model


def test_arch_may_be_a_dict(built):
    arch = dict(ARCHS['t2'], embed_dims=(48, 64, 80))
    assert built(dict(arch=arch), neck=dict(in_channels='stage2')).model == dict(neck=dict(in_channels=80))


@pytest.mark.parametrize(
    ('model', 'path'),
    [
        (dict(neck=dict(in_channels='stage3')), 'model.neck.in_channels'),
        (dict(neck=dict(in_channels=['stage0', 'stage3'])), 'model.neck.in_channels'),
        (dict(roi_head=dict(bbox_head=dict(out_channels='stage3'))), 'model.roi_head.bbox_head.out_channels'),
        (dict(decode_head=[dict(), dict(in_channels='stage3')]), 'model.decode_head.in_channels'),
        (dict(decode_head=dict(c1_in_channels='stage3')), 'model.decode_head.c1_in_channels'),
    ],
)
def test_unknown_name(model, path):
    message = f"^{path} is 'stage3'; allowed are numbers and 'stage0', 'stage1', 'stage2'\\.$"
    with pytest.raises(ValueError, match=message):
        match_widths('Recorder', dict(type='MobileMamba', arch='t2'), **model)


@pytest.mark.parametrize('backbone', [dict(type='ResNet', depth=18), dict(type='MobileMamba')])
def test_other_backbone(backbone):
    """The widths of other backbones are unknown; without the error, only the forward pass would fail."""
    with pytest.raises(ValueError, match=r"not from \{'type': .* use type='RetinaNet' and write the widths"):
        match_widths('RetinaNet', backbone, neck=dict(in_channels='stage0'))


def test_unknown_arch():
    with pytest.raises(ValueError, match="arch 'b3' is not one of"):
        match_widths('Recorder', dict(type='MobileMamba', arch='b3'))
