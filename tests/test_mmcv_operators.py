"""mmcv's compiled operators against torchvision's, with every version of torch that mmcv is built for."""

import pytest
import torch
import torchvision

from .helpers import with_gradients

ops = pytest.importorskip('mmcv.ops')


def boxes(number):
    """Random boxes (number, 4) on a picture of 160 px, and scores."""
    corners = torch.rand(number, 2) * 100
    return torch.cat([corners, corners + 5 + torch.rand(number, 2) * 50], 1), torch.rand(number)


@pytest.mark.parametrize('samples', [0, 2])
def test_roi_align(samples):
    torch.manual_seed(0)
    x, (corners, _) = torch.rand(2, 3, 20, 25, requires_grad=True), boxes(12)
    rois = torch.cat([torch.tensor([0.0, 1]).repeat(6)[:, None], corners], 1)
    layer = ops.RoIAlign((7, 7), 0.25, samples)
    expected = torchvision.ops.roi_align(x, rois, (7, 7), 0.25, samples or -1, aligned=True)
    for ours, theirs in zip(with_gradients(layer(x, rois), x), with_gradients(expected, x)):
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_nms():
    torch.manual_seed(0)
    corners, scores = boxes(200)
    found, kept = ops.nms(corners, scores, 0.4)
    assert kept.tolist() == torchvision.ops.nms(corners, scores, 0.4).tolist()
    assert 20 < len(kept) < 180
    assert torch.equal(found, torch.cat([corners, scores[:, None]], 1)[kept])


@pytest.mark.parametrize('modulated', [False, True])
def test_deformable_convolution(modulated):
    torch.manual_seed(0)
    x, weight = torch.rand(2, 4, 9, 11, requires_grad=True), torch.rand(6, 4, 3, 3, requires_grad=True)
    offset = ((torch.rand(2, 18, 9, 11) - 0.5) * 3).requires_grad_()
    mask, inputs = None, [x, offset, weight]
    if modulated:
        mask = torch.rand(2, 9, 9, 11, requires_grad=True)
        inputs.append(mask)
        y = ops.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1, 1, 1, 1)
    else:
        y = ops.deform_conv2d(x, offset, weight, 1, 1, 1, 1, 1)
    expected = torchvision.ops.deform_conv2d(x, offset, weight, padding=1, mask=mask)
    for ours, theirs in zip(with_gradients(y, *inputs), with_gradients(expected, *inputs)):
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
