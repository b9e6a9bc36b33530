"""Place labels in a figure so that they overlap neither each other nor any point."""

import itertools
import math
from typing import NamedTuple

from matplotlib.path import Path
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

GAP = 1.2  # pt between a label and other objects
NEAR = 9  # pt; a label further away gets a line to its point
DISTANCES = (5, 8, 12, 17, 23, 30, 38, 48, 60, 75, 95)  # pt from a point to its label
ANGLES = range(0, 360, 20)
CROSSED = 20  # cost of each line below a label, as additional distance in pt
ATTEMPTS = 10  # number of label orders to try


class Label(NamedTuple):
    """A label that is not placed yet.

    Args:
        text (Annotation): The label.
        points (list[tuple[float, float]]): In pixels; the label goes next to one of them.
        width (float): In pixels.
        height (float): In pixels.
    """

    text: Annotation
    points: list
    width: float
    height: float


class Labels:
    """Collects labels of points, then places each as near to its point as possible.

    Args:
        axis (Axes): Its limits and the size of its figure must be final.
        size (float): Font size in pt.
    """

    def __init__(self, axis, size):
        axis.figure.draw_without_rendering()  # computes the layout
        self.axis, self.size = axis, size
        self.scale = axis.figure.dpi / 72  # pixels per pt
        self.labels, self.boxes, self.lines = [], [], []

    def avoid(self, x, y, radius):
        """Keep labels off a point, in data coordinates, and ``radius`` pt around it."""
        center_x, center_y = self.axis.transData.transform((x, y))
        side = 2 * radius * self.scale
        self.boxes.append(Bbox.from_bounds(center_x - side / 2, center_y - side / 2, side, side))

    def avoid_line(self, points):
        """Keep labels off a line through points, in data coordinates, if there is another place."""
        self.lines.append(Path(self.axis.transData.transform(points)))

    def add(self, text, points, **style):
        """Add a label for one of some points, in data coordinates, with a style, such as ``color``."""
        place = dict(xytext=(0, 0), textcoords='offset points', ha='left', va='bottom')
        label = self.axis.annotate(text, points[0], fontsize=self.size, **place, **style)
        extent = label.get_window_extent()
        points = [tuple(point) for point in self.axis.transData.transform(points)]
        self.labels.append(Label(label, points, extent.width, extent.height))

    def write(self):
        """Place all labels; returns those that did not fit (list[str])."""
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
        """Move a label to its place, and draw the line to it."""
        text, to_data = label.text, self.axis.transData.inverted()
        text.xy = to_data.transform(point)
        text.set_position(((box.x0 - point[0]) / self.scale, (box.y0 - point[1]) / self.scale))
        if line is not None:
            style = dict(color=text.get_color(), linewidth=0.5, alpha=0.6, zorder=2)
            self.axis.plot(*zip(*to_data.transform(line.vertices)), scalex=False, scaley=False, **style)

    def _places(self, order):
        """Places in pixels, by Annotation (dict): point, box, and line to the box."""
        boxes, lines, places = list(self.boxes), list(self.lines), {}
        for label in order:
            place = self._best_place(label, boxes, lines)
            if place is not None:
                places[label.text] = place
                boxes.append(place[1])
                lines += [] if place[2] is None else [place[2]]
        return places

    def _best_place(self, label, boxes, lines):
        """The best free place: point, box and line to the box (Path, or None); None if all are taken."""
        best, least = None, math.inf
        for distance in DISTANCES:
            if distance >= least:
                break  # the remaining places cost more
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
        """The line from a point to the nearest point of a box, or None if the box is near enough."""
        end = min(max(point[0], box.x0), box.x1), min(max(point[1], box.y0), box.y1)
        return Path([point, end]) if math.dist(point, end) > NEAR * self.scale else None

    @staticmethod
    def _crossings(box, line, lines):
        """Number of lines below a label, plus those that the line to it crosses."""
        count = sum(other.intersects_bbox(box, filled=False) for other in lines)
        if line is None:
            return count
        shorter = Path(line.interpolated(20).vertices[1:])  # lines through the point itself do not count
        return count + sum(shorter.intersects_path(other, filled=False) for other in lines)

    def _is_free(self, box, line, boxes):
        """Whether a label is inside the axes, and neither it nor its line covers a label or a point."""
        frame, wide = self.axis.bbox, box.padded(GAP * self.scale)
        inside = frame.x0 < wide.x0 and wide.x1 < frame.x1 and frame.y0 < wide.y0 and wide.y1 < frame.y1
        if not inside or any(wide.overlaps(other) for other in boxes):
            return False
        if line is None:
            return True
        others = [other for other in boxes if not other.contains(*line.vertices[0])]
        return not any(line.intersects_bbox(other, filled=False) for other in others)
