"""Places for the names of boxes in a picture, so that no name covers another.

``tools/deployment/infer.py`` and its page in the browser, which run without this package, choose places by
the same rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Box = Sequence[float]
STEPS = 4  # heights of a name by which it may be moved away from its box
APART = 100  # times worse it is to cover a name than to cover as much of another box
FAR = 0.05  # of a name's area: what a place costs that comes one later in the order of preference


def overlap(box: Box, others: Iterable[Box]) -> float:
    """Area that a box (left, top, right, bottom) has in common with others, summed over them."""
    left, top, right, bottom = box
    common = [
        (min(right, each[2]) - max(left, each[0]), min(bottom, each[3]) - max(top, each[1]))
        for each in others
    ]
    return sum(max(0, width) * max(0, height) for width, height in common)


def places_beside(box: Box, width: float, height: float) -> list[tuple[float, float]]:
    """Upper left corners of a name beside a box, in the order of preference."""
    left, top, right, bottom = box
    places = []
    for step in range(STEPS):
        rows = (top - (step + 1) * height, bottom + step * height)
        places += [(x, y) for y in rows for x in (left, right - width)]
    return places + [(x, y) for y in (top, bottom - height) for x in (right, left - width)]


def place_names(
    boxes: Sequence[Box], sizes: Sequence[tuple[float, float]], frame: tuple[float, float]
) -> list[tuple[float, float]]:
    """Choose where to write the name of each box.

    The first name gets the best place: above its box, at the left. A later one gives way to those before it,
    and if it can to other boxes. Names stay inside of the picture.

    Args:
        boxes (Sequence): M corners (left, top, right, bottom), in px.
        sizes (Sequence): M sizes (width, height) of names, in px.
        frame (tuple): (width, height) of the picture, in px.

    Returns:
        list[tuple]: M upper left corners (x, y), in px.
    """
    taken: list[Box] = []
    for index, (box, (width, height)) in enumerate(zip(boxes, sizes)):
        others = [*boxes[:index], *boxes[index + 1 :]]
        best, least = (0.0, 0.0, width, height), float('inf')
        for rank, (x, y) in enumerate(places_beside(box, width, height)):
            x, y = max(min(x, frame[0] - width), 0), max(min(y, frame[1] - height), 0)
            place = (x, y, x + width, y + height)
            cost = APART * overlap(place, taken) + overlap(place, others) + rank * FAR * width * height
            if cost < least:
                best, least = place, cost
        taken.append(best)
    return [(place[0], place[1]) for place in taken]
