"""Names of boxes in pictures: none covers another; the page and ``infer.py`` choose the same places."""

import itertools
import json
import shutil
import subprocess

import numpy as np
import pytest

from mmmobilemamba.utils.name_places import overlap, place_names

from ..conftest import ROOT, load_script

FRAME = (480, 480)
SIZE = (60, 18)


def scene(seed, number=8, frame=FRAME):
    """Boxes (list of lists) as in a crowded picture, and sizes of their names."""
    rng = np.random.default_rng(seed)
    sides = rng.integers(60, 160, (number, 2))
    corners = rng.integers(0, np.subtract(frame, sides))
    sizes = [(int(width), SIZE[1]) for width in rng.integers(40, 90, number)]
    return np.concatenate([corners, corners + sides], 1).tolist(), sizes


def as_boxes(places, sizes):
    return [(x, y, x + width, y + height) for (x, y), (width, height) in zip(places, sizes)]


def test_overlap():
    """Against pixels."""
    boxes, _ = scene(0, 5, (200, 200))
    masks = np.zeros((5, 200, 200), int)
    for mask, (left, top, right, bottom) in zip(masks, boxes):
        mask[top:bottom, left:right] = 1
    assert overlap(boxes[0], boxes[1:]) == (masks[0] * masks[1:]).sum() > 0


@pytest.mark.parametrize(
    ('box', 'place'),
    [
        ((100, 100, 200, 200), (100, 82)),
        ((100, 10, 200, 200), (100, 0)),  # the picture ends above
        ((450, 100, 480, 200), (420, 82)),  # and at the right
        ((-5, 100, 30, 200), (0, 82)),
    ],
)
def test_alone(box, place):
    """Above the box at the left, and inside of the picture."""
    assert place_names([box], [SIZE], FRAME) == [place]


def test_the_same_box_twice():
    """The second name is at the other end of the box's upper edge."""
    box = (100, 100, 240, 200)
    assert place_names([box, box], [SIZE] * 2, FRAME) == [(100, 82), (180, 82)]


@pytest.mark.parametrize('seed', range(20))
def test_no_name_covers_another(seed):
    boxes, sizes = scene(seed)
    names = as_boxes(place_names(boxes, sizes, FRAME), sizes)
    for name, other in itertools.combinations(names, 2):
        assert overlap(name, [other]) == 0
    for left, top, right, bottom in names:
        assert left >= 0 and top >= 0 and right <= FRAME[0] and bottom <= FRAME[1]


def test_names_above_boxes_would_cover_each_other():
    """So that the test above can fail."""
    for boxes, sizes in map(scene, range(20)):
        names = as_boxes([(box[0], box[1] - SIZE[1]) for box in boxes], sizes)
        if any(overlap(name, [other]) for name, other in itertools.combinations(names, 2)):
            return
    raise AssertionError('no scene is crowded')


def test_a_full_picture():
    """Names go on being written where they cover least."""
    boxes, sizes = [[0, 0, 60, 20]] * 5, [SIZE] * 5
    places = place_names(boxes, sizes, (60, 20))
    assert len(places) == 5 and all(x == 0 and 0 <= y <= 2 for x, y in places)


def test_the_programs_agree(tmp_path):
    scenes = [(*scene(seed), FRAME) for seed in range(10)]
    expected = [[list(place) for place in place_names(*each)] for each in scenes]
    drawing = load_script('tools/deployment/drawing.py')
    assert [[list(place) for place in drawing.place_names(*each)] for each in scenes] == expected
    if shutil.which('node') is None:
        pytest.skip('the page is not compared: there is no node')
    path = tmp_path / 'names.mjs'  # older versions of node take no modules with another ending
    shutil.copy(ROOT / 'tools/deployment/web/names.js', path)
    code = (
        f'import("{path.as_uri()}").then(({{ placeNames }}) => '
        f'console.log(JSON.stringify({json.dumps(scenes)}.map((each) => placeNames(...each)))))'
    )
    result = subprocess.run(['node', '-e', code], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == expected
