"""What the comparison of a file with PyTorch accepts and rejects."""

import pytest
import torch
import torchvision
from torch import nn

from mmmobilemamba.deployment import proof
from mmmobilemamba.deployment.probes import NO_PROBE, Recorded, has_probes

INF, NAN = float('inf'), float('nan')
ABOUT = dict(size=None, preprocessed=False, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


class Best(nn.Module):
    """The three best of some saturated scores."""

    def forward(self, x, probe=NO_PROBE):
        (x,) = probe.numbers(x * 1000)
        scores = x.sigmoid()
        index = probe.best(scores, scores.topk(3, dim=1).indices)
        return scores.gather(1, index), x.gather(1, index)


LOGITS = torch.tensor([[0.5, 0.4, -0.2, 0.3, 0.2, -0.001, 0.001]])


def error(index, logits=1000 * LOGITS):
    scores = logits.sigmoid()
    outputs = [scores.gather(1, index), logits.gather(1, index)]
    return proof.largest_error(Best(), LOGITS, outputs, [logits, index])


def test_equal_scores_may_change_places():
    assert (1000 * LOGITS).sigmoid()[0, [0, 1, 3, 4]].tolist() == [1.0] * 4
    for index in ([0, 1, 3], [4, 3, 1], [1, 4, 0]):
        assert error(torch.tensor([index])) == 0
    assert error(torch.tensor([[0, 1, 6]])) > 0.2  # sigmoid(1) is not 1
    assert error(torch.tensor([[6, 0, 1]])) > 0.2
    assert error(torch.tensor([[0, 0, 1]])) == INF
    assert error(torch.tensor([[0, 1, 7]][:1]).clamp(max=6)) > 0.2


def test_logits_are_compared_where_scores_are_equal():
    index = torch.tensor([[0, 1, 3]])
    assert 1e-4 < error(index, 1000 * LOGITS + torch.eye(7)[:1]) < 1e-2
    assert error(index, 1000 * LOGITS * (1 + 1e-6)) < 1e-5


def test_shapes_and_numbers():
    image, network = torch.rand(1, 7), Best()
    *outputs, logits, index = Recorded(network)(image)
    assert has_probes(network, image) and proof.largest_error(network, image, outputs, [logits, index]) == 0
    for probed in ([], [logits], [logits, index, index], [logits[:, :6], index], [index, logits]):
        assert proof.largest_error(network, image, outputs, probed) == INF
    assert proof.largest_error(network, image, outputs[:1], [logits, index]) == INF
    assert proof.largest_error(network, image, [outputs[0], outputs[1] * NAN], [logits, index]) == INF
    values = torch.tensor([1.0, -2.0, INF])
    assert proof.difference(values, values) == 0
    assert proof.difference(values, torch.tensor([1.0, -2.0, 9.0])) == INF
    assert proof.difference(values[:2], torch.tensor([1.0, -2.001])) == pytest.approx(5e-4, rel=1e-2)


def test_far_beyond_pixels_numbers_are_enough():
    def root(image, probe=NO_PROBE):
        return (image.sqrt(),)

    def same(image, probe=NO_PROBE):
        return (image,)

    image, numbers = torch.tensor([1.0, -1.0]), [torch.tensor([7.0, 8.0])]
    assert proof.is_finite(same, image, numbers)
    assert not proof.is_finite(same, image, [numbers[0] * NAN])
    assert not proof.is_finite(same, image, [numbers[0][:1]])
    assert proof.is_finite(root, image, [numbers[0] * NAN])  # as in PyTorch


def random_boxes(count):
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 2, generator=generator) * 100
    scores = (torch.rand(count, generator=generator) * 20).round() / 20  # many ties
    return torch.cat([corners, corners + 10 + 40 * torch.rand(count, 2, generator=generator)], 1), scores


def test_suppression():
    """Any order of equal scores is accepted; every other error is detected."""
    boxes, scores = random_boxes(300)
    kept = torch.zeros_like(scores)
    for order in (torch.arange(300), torch.arange(300).flip(0)):
        above = order[scores[order] > 0.2]
        left = above[torchvision.ops.nms(boxes[above], scores[above], 0.5)]
        kept = torch.zeros_like(scores).index_put((left,), scores[left])
        assert proof.is_greedy(boxes, scores, kept, 0.5, 0.2)
    chosen = kept.nonzero().flatten()
    lost = (kept == 0) & (scores > 0.2)
    assert len(chosen) > 20 and lost.sum() > 20
    for index in chosen[:20]:
        assert not proof.is_greedy(boxes, scores, kept.index_fill(0, index, 0.0), 0.5, 0.2)
        assert not proof.is_greedy(boxes, scores, kept.index_fill(0, index, 0.123), 0.5, 0.2)
    for index in lost.nonzero().flatten()[:20]:
        more = kept.index_put((index[None],), scores[index])
        assert not proof.is_greedy(boxes, scores, more, 0.5, 0.2)
    assert not proof.is_greedy(boxes, scores, kept, 0.5, 0.0)
    assert not proof.is_greedy(boxes, scores, kept, 0.3, 0.2)


def test_images_come_from_pictures():
    """All but the last have values of real images, normalised, for any number of channels."""
    images = dict(proof.test_images((64, 96), ABOUT))
    assert [tuple(image.shape) for image in images.values()][:4] == [
        (1, 3, 64, 96), (3, 3, 64, 96), (1, 3, 128, 128), (2, 3, 81, 127)
    ]  # fmt: skip
    low, high = (
        (torch.tensor([float(value)] * 3) - torch.tensor(ABOUT['mean'])) / torch.tensor(ABOUT['std'])
        for value in (0, 255)
    )
    beyond = images.pop(proof.BEYOND)
    for image in images.values():
        assert (image.amin((0, 2, 3)) >= low - 1e-5).all() and (image.amax((0, 2, 3)) <= high + 1e-5).all()
    assert beyond.std() > 90
    gray = dict(proof.test_images((32, 32), dict(ABOUT, size=[32, 32], mean=[0.0], std=[1.0])))
    assert gray['white'].unique().tolist() == [255.0] and gray['a batch of 3'].shape == (3, 1, 32, 32)
    raw = dict(proof.test_images((32, 48), dict(ABOUT, size=[32, 48], preprocessed=True)))
    assert proof.BEYOND not in raw
    assert raw['noise'].dtype == torch.uint8 and raw['noise'].shape == (1, 32, 48, 3)
