"""Labels in a figure that overlap neither each other nor any point."""

import itertools
import math
from typing import NamedTuple

from matplotlib.path import Path
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

GAP = 1.2  # points between a label and what is beside it
NEAR = 9  # points; a label further from its point gets a line to it
DISTANCES = (5, 8, 12, 17, 23, 30, 38, 48, 60, 75, 95)  # points from a point to its label
ANGLES = range(0, 360, 20)
CROSSED = 20  # points that a label may be further away for each line that it does not lie on
ATTEMPTS = 10  # orders of the labels that are tried


class Label(NamedTuple):
    """A label without a place yet.

    Args:
        text (Annotation): The label.
        points (list[tuple[float, float]]): In pixels; it has to be beside one of them.
        width (float): In pixels.
        height (float): In pixels.
    """

    text: Annotation
    points: list
    width: float
    height: float


class Labels:
    """Labels of points, which are written when all are known, each as near to its point as it can be.

    Args:
        axis (Axes): Its limits and the size of its figure must not change any more.
        size (float): Of the font, in points.
    """

    def __init__(self, axis, size):
        axis.figure.draw_without_rendering()  # the layout is known behind it
        self.axis, self.size = axis, size
        self.scale = axis.figure.dpi / 72  # pixels of a point
        self.labels, self.boxes, self.lines = [], [], []

    def avoid(self, x, y, radius):
        """Keep labels off a point, in data coordinates, and ``radius`` points around it."""
        center_x, center_y = self.axis.transData.transform((x, y))
        side = 2 * radius * self.scale
        self.boxes.append(Bbox.from_bounds(center_x - side / 2, center_y - side / 2, side, side))

    def avoid_line(self, points):
        """Keep labels off a line through points, in data coordinates, where there is another place."""
        self.lines.append(Path(self.axis.transData.transform(points)))

    def add(self, text, points, **style):
        """Want a label beside one of some points, in data coordinates, with a style, such as ``color``."""
        place = dict(xytext=(0, 0), textcoords='offset points', ha='left', va='bottom')
        label = self.axis.annotate(text, points[0], fontsize=self.size, **place, **style)
        extent = label.get_window_extent()
        points = [tuple(point) for point in self.axis.transData.transform(points)]
        self.labels.append(Label(label, points, extent.width, extent.height))

    def write(self):
        """Write the labels; returns those for which there was no place (list[str])."""
        order, best, least = self.labels, {}, None
        for _ in range(ATTEMPTS):
            places = self._places(order)
            missing = [label for label in order if label.text not in places]
            if least is None or len(missing) < least:
                best, least = places, len(missing)
            if not missing:
                break
            order = missing + [label for label in order if label.text in places]
        for label in self.labels:
            if label.text in best:
                self._write(label, *best[label.text])
            else:
                label.text.remove()
        return [label.text.get_text() for label in self.labels if label.text not in best]

    def _write(self, label, point, box, line):
        """Put a label into its place, and draw the line to it."""
        text, to_data = label.text, self.axis.transData.inverted()
        text.xy = to_data.transform(point)
        text.set_position(((box.x0 - point[0]) / self.scale, (box.y0 - point[1]) / self.scale))
        if line is not None:
            style = dict(color=text.get_color(), linewidth=0.5, alpha=0.6, zorder=2)
            self.axis.plot(*zip(*to_data.transform(line.vertices)), scalex=False, scaley=False, **style)

    def _places(self, order):
        """The place of each label, in pixels: its point, its box, the line to it (dict by Annotation)."""
        boxes, lines, places = list(self.boxes), list(self.lines), {}
        for label in order:
            place = self._best_place(label, boxes, lines)
            if place is not None:
                places[label.text] = place
                boxes.append(place[1])
                lines += [] if place[2] is None else [place[2]]
        return places

    def _best_place(self, label, boxes, lines):
        """The point, the box of its label and the line to it (Path, or None), or None if all are taken."""
        best, least = None, math.inf
        for distance in DISTANCES:
            if distance >= least:
                break  # the places to come are worse than the best one so far
            for (x, y), angle in itertools.product(label.points, ANGLES):
                along, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
                left = x + (distance * self.scale + label.width / 2) * along - label.width / 2
                bottom = y + (distance * self.scale + label.height / 2) * up - label.height / 2
                box = Bbox.from_bounds(left, bottom, label.width, label.height)
                line = self._line((x, y), box)
                cost = distance + CROSSED * self._crossings(box, line, lines)
                if cost < least and self._is_free(box, line, boxes):
                    best, least = ((x, y), box, line), cost
        return best

    def _line(self, point, box):
        """From a point to the nearest of a box, or None if that is near enough."""
        end = min(max(point[0], box.x0), box.x1), min(max(point[1], box.y0), box.y1)
        return Path([point, end]) if math.dist(point, end) > NEAR * self.scale else None

    @staticmethod
    def _crossings(box, line, lines):
        """Number of lines below a label, and of those that the line to it crosses."""
        count = sum(other.intersects_bbox(box, filled=False) for other in lines)
        if line is None:
            return count
        shorter = Path(line.interpolated(20).vertices[1:])  # a line at the point itself is not crossed
        return count + sum(shorter.intersects_path(other, filled=False) for other in lines)

    def _is_free(self, box, line, boxes):
        """Whether a label and its line are inside of the axes, and cover no label and no point."""
        frame, wide = self.axis.bbox, box.padded(GAP * self.scale)
        inside = frame.x0 < wide.x0 and wide.x1 < frame.x1 and frame.y0 < wide.y0 and wide.y1 < frame.y1
        if not inside or any(wide.overlaps(other) for other in boxes):
            return False
        if line is None:
            return True
        others = [other for other in boxes if not other.contains(*line.vertices[0])]
        return not any(line.intersects_bbox(other, filled=False) for other in others)
