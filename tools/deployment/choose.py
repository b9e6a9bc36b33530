"""Post-processing for exported files that end before it. Needs only NumPy.

    outputs = choose(session.run(batch), session.about)

ONNX files contain the post-processing; other files end with logits, or with boxes and scores of all classes.
The algorithms match ``mmmobilemamba/deployment/dense_heads.py`` and ``detectors.py``, which follow mmdet and
mmcv:

- https://github.com/open-mmlab/mmdetection/tree/v3.3.0/mmdet/models/dense_heads
- https://github.com/open-mmlab/mmcv/blob/v2.1.0/mmcv/ops/nms.py

Part of ``infer.py``, which runs without the rest of the repository.
"""

from typing import NamedTuple

import numpy as np

TINY = np.finfo(np.float32).tiny  # replaces scores of 0, which mark empty slots


class Found(NamedTuple):
    """Boxes (K, 4) as left, top, right and bottom in px, with scores and labels (K,)."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def take(self, index):
        """The objects at an index (Found)."""
        return Found(*(values[index] for values in self))


def choose(outputs, about):
    """Convert the outputs of a file to those of an ONNX file, if they are not in that form already.

    Args:
        outputs (dict[str, ndarray]): Outputs by name; the first axis is the image.
        about (dict): Metadata of the file.

    Returns:
        dict[str, ndarray]: For a classifier logits, labels and scores (N, C), the best first. For a segmentor
        classes, int32, (N, H, W). For a detector boxes (N, K, 4), scores and labels (N, K), the best first,
        padded with scores of 0 for images with fewer than K objects.
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
    """Softmax scores and labels (..., C) from logits (..., C), the best first."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    scores = powers / powers.sum(-1, keepdims=True)
    labels = np.argsort(-scores, axis=-1, kind='stable')
    return np.take_along_axis(scores, labels, -1), labels


def stack(images):
    """Stack the objects of several images (list[Found]) as outputs, see :func:`choose`."""
    most = max(len(found.scores) for found in images)
    padded = [
        [np.pad(x, [(0, most - len(x))] + [(0, 0)] * (x.ndim - 1)) for x in values] for values in zip(*images)
    ]
    return dict(zip(Found._fields, map(np.stack, padded)))


def find_objects(settings, boxes, scores, factors=None):
    """The objects of an image (Found), the best first; with PAA's voting sorted by class, as in mmdet.

    Args:
        settings (dict): ``candidates`` in the metadata of a file: ``kind``, the number of places on each of
            the ``levels``, and settings from the config's ``test_cfg``.
        boxes (ndarray): Boxes of all places, finest level first, (B, 4).
        scores (ndarray): Scores of all classes, (B, C).
        factors (ndarray, optional): Factors of the scores, (B,).

    Raises:
        ValueError: If the kind is unknown, or the number of boxes does not match the levels.
    """
    if settings['kind'] not in KINDS:
        raise ValueError(f'The kind of candidates is {settings["kind"]!r}; it must be one of {list(KINDS)}.')
    if sum(settings['levels']) != len(boxes):
        raise ValueError(f'There are {len(boxes)} boxes, and the levels have {settings["levels"]}.')
    return KINDS[settings['kind']](settings, boxes, scores, factors)


def best_pairs(settings, boxes, scores, factors):
    """As in ``BaseDenseHead`` and ``GFLHead``: the best pairs of place and class on each level."""
    limit, classes, found, first = settings['nms_pre'], scores.shape[1], [], 0
    for count in settings['levels']:
        level = scores[first : first + count].ravel()
        pairs = np.flatnonzero(level > settings['score_thr'])
        # A negative limit drops the last ones, because mmdet uses it as the end of a slice.
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
    """As in ``YOLOXHead``: the best class of each place, times its objectness, without a maximum number."""
    labels = scores.argmax(1)
    chosen = scores[np.arange(len(scores)), labels] * factors
    found = Found(boxes, np.maximum(chosen, TINY), labels).take(chosen >= settings['score_thr'])
    return left_over(found, -1, settings['nms'])


def best_places(settings, boxes, scores, factors):
    """As in ``PAAHead``: the best places on each level; after NMS, their boxes vote on the remaining ones."""
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
    """``PAAHead.score_voting``: averages each box (K, 4) over overlapping ones (P, 4), by scores (K, P)."""
    overlap = np.stack([intersection_over_union(box, others, least=1e-6) for box in boxes])
    weight = np.where(overlap > 0.01, np.exp(-((1 - overlap) ** 2) / 0.025) * scores, 0)
    total = weight.sum(1, keepdims=True)
    return np.where(total > 0, weight @ others / np.maximum(total, TINY), boxes)


def left_over(found, limit, settings):
    """Candidates that remain after NMS (Found), the best first, as with mmcv's ``batched_nms``.

    Args:
        found (Found): Candidates of all classes.
        limit (int): Maximum number of objects; no limit if not positive.
        settings (dict, optional): NMS settings, see ``mmmobilemamba/deployment/suppress.py``. Without them,
            the candidates are only sorted.
    """
    if not len(found.scores):
        return found
    found = found.take(best(found.scores))
    if settings is None:
        return found.take(slice(limit if limit > 0 else None))
    limit = min((number for number in (limit, settings['max_num']) if number > 0), default=None)
    boxes = found.boxes
    if not settings['class_agnostic']:  # offsets separate the classes
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
    """Greedy NMS: indices (K,) of the boxes (B, 4) that no better box overlaps by more than a threshold.

    Args:
        boxes (ndarray): Left, top, right and bottom; the best first.
        threshold (float): IoU threshold.
        offset (int): 0 or 1 px, added to the sides of each box.
        limit (int, optional): Maximum number of boxes.
    """
    left, kept = np.arange(len(boxes)), []
    while len(left) and len(kept) != limit:
        first, left = left[0], left[1:]
        kept.append(first)
        with np.errstate(divide='ignore', invalid='ignore'):  # empty boxes
            left = left[~(intersection_over_union(boxes[first], boxes[left], offset) > threshold)]
    return np.array(kept, int)


def intersection_over_union(box, others, offset=0, least=None):
    """IoU (B,) of a box (4,) with others (B, 4); ``least`` is a lower bound for the union."""
    corner = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]) + offset
    common = np.maximum(corner, 0).prod(1)
    areas = ((x[..., 2:] - x[..., :2] + offset).prod(-1) for x in (box, others))
    union = sum(areas) - common
    return common / (union if least is None else np.maximum(union, least))


def best(scores, limit=None):
    """Indices of the best scores (B,), the best first; all of them, or at most ``limit``."""
    if limit is None or limit >= len(scores):
        return np.argsort(-scores, kind='stable')
    if limit <= 0:
        return np.zeros(0, int)
    places = np.argpartition(-scores, limit - 1)[:limit]
    return places[np.argsort(-scores[places], kind='stable')]
