"""What networks find, chosen from the raw outputs of files for phones: needs NumPy alone.

    outputs = choose(session.run(batch), session.about)

A file of ONNX has this inside; others end in logits, and in boxes with scores of every class. The arithmetic
is that of ``mmmobilemamba/deployment/dense_heads.py`` and ``detectors.py``, and so of mmdet and mmcv:

- https://github.com/open-mmlab/mmdetection/tree/v3.3.0/mmdet/models/dense_heads
- https://github.com/open-mmlab/mmcv/blob/v2.1.0/mmcv/ops/nms.py

Part of ``infer.py``, which runs without the rest of the repository.
"""

from typing import NamedTuple

import numpy as np

TINY = np.finfo(np.float32).tiny  # the score of what was found with 0, which means nothing was


class Found(NamedTuple):
    """Boxes (K, 4), left, top, right and bottom in px, with their scores and labels (K,)."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def take(self, index):
        """Some of them (Found)."""
        return Found(*(values[index] for values in self))


def choose(outputs, about):
    """The outputs of a file as those of ONNX (dict[str, ndarray]); what is so already stays as it is.

    Args:
        outputs (dict[str, ndarray]): By name; the first axis is the image.
        about (dict): What the file says of itself.

    Returns:
        dict[str, ndarray]: Of a classifier logits, and all classes (N, C), the best first, with their scores;
        of a segmentor classes, int32, (N, H, W); of a detector boxes (N, K, 4), scores and labels (N, K), the
        best first, with a score of 0 where an image has fewer than K.
    """
    task = about['task']
    if task == 'classification' and 'scores' not in outputs:
        scores, labels = ranked(outputs['logits'])
        return dict(outputs, scores=scores, labels=labels)
    if task == 'segmentation' and 'classes' not in outputs:
        return dict(outputs, classes=outputs['logits'].argmax(1).astype(np.int32))
    if task == 'detection' and 'labels' not in outputs:
        count = len(outputs['scores'])
        images = [{name: values[index] for name, values in outputs.items()} for index in range(count)]
        return stack([find_objects(about['candidates'], **image) for image in images])
    return outputs


def ranked(logits):
    """Softmax scores and labels (..., C) of logits (..., C), the best first."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    scores = powers / powers.sum(-1, keepdims=True)
    labels = np.argsort(-scores, axis=-1, kind='stable')
    return np.take_along_axis(scores, labels, -1), labels


def stack(images):
    """Objects of several images (list[Found]) as outputs, see :func:`choose`."""
    most = max(len(found.scores) for found in images)
    padded = [
        [np.pad(x, [(0, most - len(x))] + [(0, 0)] * (x.ndim - 1)) for x in values] for values in zip(*images)
    ]
    return dict(zip(Found._fields, map(np.stack, padded)))


def find_objects(settings, boxes, scores, factors=None):
    """The objects of an image (Found), the best first; after PAA's vote by class, as in mmdet.

    Args:
        settings (dict): The ``candidates`` that a file says of itself: the ``kind`` of the choice, the number
            of places on each of the ``levels``, and what the config's ``test_cfg`` has.
        boxes (ndarray): Of all places, finest level first, (B, 4).
        scores (ndarray): Of every class, (B, C).
        factors (ndarray, optional): Of the scores, (B,).

    Raises:
        ValueError: If the kind is not known, or the places are not as many as the levels have.
    """
    if settings['kind'] not in KINDS:
        raise ValueError(f'The kind of candidates is {settings["kind"]!r}; it must be one of {list(KINDS)}.')
    if sum(settings['levels']) != len(boxes):
        raise ValueError(f'There are {len(boxes)} boxes, and the levels have {settings["levels"]}.')
    return KINDS[settings['kind']](settings, boxes, scores, factors)


def best_pairs(settings, boxes, scores, factors):
    """``BaseDenseHead`` and ``GFLHead``: the best pairs of a place and a class on each level."""
    limit, classes, found, first = settings['nms_pre'], scores.shape[1], [], 0
    for count in settings['levels']:
        level = scores[first : first + count].ravel()
        pairs = np.flatnonzero(level > settings['score_thr'])
        # A negative limit leaves out the last ones, as mmdet takes it for the end of a slice.
        pairs = pairs[best(level[pairs], limit if limit > 0 else len(pairs) + limit)]
        found.append(pairs + first * classes)
        first += count
    pairs = np.concatenate(found)
    places, labels = np.divmod(pairs, classes)
    chosen = scores.ravel()[pairs]
    if factors is not None:
        chosen = chosen * factors[places]
    found = Found(boxes[places], np.maximum(chosen, TINY), labels)
    smallest = settings['min_bbox_size']
    if smallest >= 0:
        found = found.take((found.boxes[:, 2:] - found.boxes[:, :2] > smallest).all(1))
    return left_over(found, settings['max_per_img'], settings['nms'])


def best_class(settings, boxes, scores, factors):
    """``YOLOXHead``: the best class of each place, times its objectness; all that are left over."""
    labels = scores.argmax(1)
    chosen = scores[np.arange(len(scores)), labels] * factors
    found = Found(boxes, np.maximum(chosen, TINY), labels).take(chosen >= settings['score_thr'])
    return left_over(found, -1, settings['nms'])


def best_places(settings, boxes, scores, factors):
    """``PAAHead``: the best places of each level, whose boxes vote for those that are left over."""
    limit, found, first = settings['nms_pre'], [], 0
    scores = np.sqrt(scores * factors[:, None])
    for count in settings['levels']:
        level = scores[first : first + count].max(1)
        found.append(first + best(level, limit if limit > 0 else count))
        first += count
    places = np.concatenate(found)
    boxes, scores = boxes[places], scores[places]
    places, labels = np.nonzero(scores > settings['score_thr'])
    found = Found(boxes[places], np.maximum(scores[places, labels], TINY), labels)
    found = left_over(found, settings['max_per_img'], settings['nms'])
    if not settings['votes'] or not len(found.scores):
        return found
    found = found.take(np.argsort(found.labels, kind='stable'))
    votes = np.where(scores > settings['score_thr'], scores, 0)[:, found.labels].T
    return found._replace(boxes=vote(found.boxes, boxes, votes))


KINDS = dict(pairs=best_pairs, best_class=best_class, places=best_places)


def vote(boxes, others, scores):
    """``PAAHead.score_voting``: boxes (K, 4) as the mean of others (P, 4) that overlap, by scores (K, P)."""
    overlap = np.stack([intersection_over_union(box, others, least=1e-6) for box in boxes])
    weight = np.where(overlap > 0.01, np.exp(-((1 - overlap) ** 2) / 0.025) * scores, 0)
    total = weight.sum(1, keepdims=True)
    return np.where(total > 0, weight @ others / np.maximum(total, TINY), boxes)


def left_over(found, limit, settings):
    """What the suppression leaves of candidates (Found), the best first: mmcv's ``batched_nms``.

    Args:
        found (Found): Candidates of all classes.
        limit (int): The most that are left; no limit if not positive.
        settings (dict, optional): How, see ``mmmobilemamba/deployment/suppress.py``; they are sorted alone if
            not given.
    """
    if not len(found.scores):
        return found
    found = found.take(best(found.scores))
    if settings is None:
        return found.take(slice(limit if limit > 0 else None))
    limit = min((number for number in (limit, settings['max_num']) if number > 0), default=None)
    boxes = found.boxes
    if not settings['class_agnostic']:  # those of different classes are moved apart
        boxes = boxes + (found.labels * (boxes.max() + 1)).astype(boxes.dtype)[:, None]
    groups = [np.arange(len(boxes))]
    if len(boxes) >= settings['split_thr']:
        groups = [np.flatnonzero(found.labels == label) for label in np.unique(found.labels)]
    threshold, kept = settings['score_threshold'], []
    for group in groups:
        if threshold > 0:
            group = group[found.scores[group] > threshold]
        kept.append(group[suppress(boxes[group], settings['iou_threshold'], settings['offset'], limit)])
    return found.take(np.sort(np.concatenate(kept))[:limit])


def suppress(boxes, threshold, offset=0, limit=None):
    """Places (K,) of the boxes (B, 4), the best first, that no better one overlaps by more than a threshold.

    Args:
        boxes (ndarray): Left, top, right and bottom.
        threshold (float): Of the intersection over union.
        offset (int): Of 0 or 1 px, which a box is longer than the difference of its sides.
        limit (int, optional): The most that are wanted.
    """
    left, kept = np.arange(len(boxes)), []
    while len(left) and len(kept) != limit:
        first, left = left[0], left[1:]
        kept.append(first)
        with np.errstate(divide='ignore', invalid='ignore'):  # of empty boxes
            left = left[~(intersection_over_union(boxes[first], boxes[left], offset) > threshold)]
    return np.array(kept, int)


def intersection_over_union(box, others, offset=0, least=None):
    """Of a box (4,) and others (B, 4), (B,); the union is ``least`` at least, if that is given."""
    corner = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]) + offset
    common = np.maximum(corner, 0).prod(1)
    areas = ((x[..., 2:] - x[..., :2] + offset).prod(-1) for x in (box, others))
    union = sum(areas) - common
    return common / (union if least is None else np.maximum(union, least))


def best(scores, limit=None):
    """Places of the best scores (B,), the best first; of all, or of so many."""
    if limit is None or limit >= len(scores):
        return np.argsort(-scores, kind='stable')
    if limit <= 0:
        return np.zeros(0, int)
    places = np.argpartition(-scores, limit - 1)[:limit]
    return places[np.argsort(-scores[places], kind='stable')]
