"""Whether a file gives what PyTorch gives, for several inputs."""

import itertools

import torch
import torchvision

TOLERANCE = 1e-4  # relative to the largest value of an output
ALIKE = 0.99  # overlap from which on two boxes are one
CLEAR = 1e-3  # a choice between scores that are nearer to each other may fall either way


def test_images(shape, dynamic_sizes, raw, seed=0):
    """Images of other batches, sizes and values than the one that a graph was made with; (name, image) pairs.

    Args:
        shape (tuple[int, int]): Height and width that the graph was made for.
        dynamic_sizes (bool): Whether it takes others.
        raw (bool): uint8 images, (N, H, W, 3), instead of normalised ones, (N, 3, H, W).
        seed (int): Of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = shape
    sizes = {'noise': (1, height, width), 'a batch of 3': (3, height, width)}
    if dynamic_sizes:
        sizes['another size'] = (1, height + 64, width + 32)
        sizes['odd sides'] = (2, height + 17, width + 31)
    for name, (batch, *sides) in sizes.items():
        image = torch.randn(batch, 3, *sides, generator=generator)
        yield name, to_pixels(image) if raw else image
    for name, value in {'black': -2.5, 'white': 2.5}.items():
        image = torch.full((1, 3, height, width), value)
        yield name, to_pixels(image) if raw else image
    if not raw:
        yield 'values of 100', 100 * torch.randn(1, 3, height, width, generator=generator)


def to_pixels(image):
    """A normalised image as one that was read, roughly: (N, 3, H, W) -> uint8, (N, H, W, 3)."""
    return (image * 58 + 116).clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def largest_error(task, expected, found):
    """How far outputs of PyTorch and of a file are apart, relative to the largest value of each (float).

    Choices, such as classes, count as an error of 1 where they are clear and differ.

    Args:
        task (str): One of :data:`~.build.TASKS`.
        expected, found (list[Tensor]): Outputs, in the same order.
    """
    if [x.shape for x in expected] != [x.shape for x in found]:
        return float('inf')
    if not all(x.isfinite().all() for x in found):
        return float('inf')
    compare = dict(classification=_classes, detection=_boxes, segmentation=_pixels).get(task, _values)
    return compare(expected, found)


def _values(expected, found):
    errors = ((a - b).abs().max() / b.abs().max().clamp(min=1e-12) for a, b in zip(found, expected))
    return max(float(error) for error in errors)


def _classes(expected, found):
    """Logits, scores, labels; a label may differ from one of the same score."""
    logits, scores, _ = expected
    probabilities = logits.softmax(1)
    there = (probabilities.gather(1, found[2]) - scores).abs().max()
    return max(_values(expected[:2], found[:2]), float(there > CLEAR))


def _pixels(expected, found):
    """Classes, and logits perhaps; where there are none, single pixels on a border may differ."""
    different = (expected[0] != found[0]).double().mean().item()
    values = _values(expected[1:], found[1:]) if len(expected) > 1 else 0.0
    return max(values, float(different > CLEAR))


def _boxes(expected, found):
    """Boxes, scores, labels, masks perhaps: every clear box has its like, of the same label and score."""
    error = (expected[1] - found[1]).abs().max().item()  # both best first
    for image in range(len(expected[0])):
        boxes, scores, labels, *masks = (x[image] for x in expected)
        others, other_scores, other_labels, *other_masks = (x[image] for x in found)
        same = (labels[:, None] == other_labels) & ((scores[:, None] - other_scores).abs() < CLEAR)
        alike = torchvision.ops.box_iou(boxes, others).nan_to_num(1.0).ge(ALIKE) & same
        # Those at the end of the list, and of scores that others nearly have, may be kept or not.
        clear = scores > scores[-1] + CLEAR
        missing = clear & ~alike.any(1)
        error = max(error, missing.double().sum().item() / max(clear.sum().item(), 1) / 10)
        for mask, other_mask in itertools.zip_longest(masks, other_masks):
            partner = alike.int().argmax(1)
            both = clear & alike.any(1)
            if both.any():
                error = max(error, (mask - other_mask[partner])[both].abs().max().item() / 10)
    return error
