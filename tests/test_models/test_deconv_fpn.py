"""The neck: levels, their inputs, and equality with mmdet's FPN if there are no finer levels."""

import pytest
import torch

pytest.importorskip('mmdet')

from mmdet.models.necks import FPN
from torch import nn

from mmmobilemamba.models.necks import DeconvFPN

CHANNELS = [24, 40, 56]


def maps():
    return [torch.randn(2, c, h, w) for c, (h, w) in zip(CHANNELS, ((11, 14), (6, 7), (3, 4)))]


@pytest.mark.parametrize('extra', [False, 'on_input', 'on_lateral', 'on_output'])
@pytest.mark.parametrize('num_outs', [3, 5])
def test_without_finer_levels_it_is_fpn(extra, num_outs):
    kwargs = dict(add_extra_convs=extra, relu_before_extra_convs=True)
    neck = DeconvFPN(CHANNELS, 16, num_outs, num_extra_trans_convs=0, **kwargs)
    fpn = FPN(CHANNELS, 16, num_outs, **kwargs)
    fpn.load_state_dict(neck.state_dict())
    inputs = maps()
    outs, expected = neck(inputs), fpn(inputs)
    assert len(outs) == num_outs
    for out, other in zip(outs, expected):
        assert torch.equal(out, other)


@pytest.mark.parametrize('start_level', [0, 1])
def test_start_level_as_in_fpn(start_level):
    neck = DeconvFPN(CHANNELS, 16, 4, num_extra_trans_convs=0, start_level=start_level, add_extra_convs=True)
    fpn = FPN(CHANNELS, 16, 4, start_level=start_level, add_extra_convs=True)
    fpn.load_state_dict(neck.state_dict())
    inputs = maps()
    for out, other in zip(neck(inputs), fpn(inputs)):
        assert torch.equal(out, other)


def test_finer_levels_of_mask_rcnn():
    neck = DeconvFPN([200, 376, 448], 256, num_outs=5, num_extra_trans_convs=2)
    assert sum(p.numel() for p in neck.parameters()) == 3_738_112  # the authors' log
    inputs = [torch.randn(1, c, s, s) for c, s in zip((200, 376, 448), (8, 4, 2))]
    assert [tuple(out.shape) for out in neck(inputs)] == [(1, 256, s, s) for s in (32, 16, 8, 4, 2)]


def test_finer_levels_come_from_the_summed_lateral():
    """Extra output convolution 0 is for the finest level, transposed convolution 0 for the coarsest."""
    neck, inputs = DeconvFPN(CHANNELS, 16, num_outs=5, num_extra_trans_convs=2), maps()
    laterals = [conv(x) for conv, x in zip(neck.lateral_convs, inputs)]
    up = nn.functional.interpolate(laterals[2], size=(6, 7), mode='nearest')
    up = nn.functional.interpolate(laterals[1] + up, size=(11, 14), mode='nearest')
    twice = neck.extra_trans_convs[0](laterals[0] + up)
    four_times = neck.extra_trans_convs[1](twice)
    outs = neck(inputs)
    torch.testing.assert_close(outs[1], neck.extra_fpn_convs[1](twice))
    torch.testing.assert_close(outs[0], neck.extra_fpn_convs[0](four_times))
    names = set(dict(neck.named_parameters()))
    assert {
        'extra_trans_convs.1.conv.weight',
        'extra_fpn_convs.0.conv.bias',
        'fpn_convs.2.conv.weight',
    } <= names


def test_wrong_arguments():
    with pytest.raises(ValueError, match='built for 3 maps, but got 2'):
        DeconvFPN(CHANNELS, 16, num_outs=5)(maps()[:2])
    with pytest.raises(ValueError, match='3 levels of the backbone and 2 finer ones need at least 5, not 4'):
        DeconvFPN(CHANNELS, 16, num_outs=4, num_extra_trans_convs=2)
    with pytest.raises(ValueError, match='0 or more, not -1'):
        DeconvFPN(CHANNELS, 16, num_outs=4, num_extra_trans_convs=-1)
