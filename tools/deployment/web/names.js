// Places for the names of boxes, so that no name covers another: as mmmobilemamba/utils/name_places.py.

/** Area that a box, [left, top, right, bottom], has in common with others, summed over them. */
function overlap([left, top, right, bottom], others) {
  let sum = 0;
  for (const [otherLeft, otherTop, otherRight, otherBottom] of others) {
    const wide = Math.min(right, otherRight) - Math.max(left, otherLeft);
    const high = Math.min(bottom, otherBottom) - Math.max(top, otherTop);
    sum += Math.max(0, wide) * Math.max(0, high);
  }
  return sum;
}

/** Upper left corners of a name beside a box, in the order of preference. */
function placesBeside([left, top, right, bottom], width, height) {
  const places = [];
  for (let step = 0; step < 4; step++) {
    for (const y of [top - (step + 1) * height, bottom + step * height]) {
      for (const x of [left, right - width]) places.push([x, y]);
    }
  }
  for (const y of [top, bottom - height]) for (const x of [right, left - width]) places.push([x, y]);
  return places;
}

/** Where to write the name of each box, the first ones best: upper left corners.
 * `boxes` and `sizes`, [width, height], belong together; `frame` is the size of the picture; all in px. */
export function placeNames(boxes, sizes, frame) {
  const taken = [];
  boxes.forEach((box, index) => {
    const others = boxes.filter((_, other) => other !== index), [width, height] = sizes[index];
    let best = [0, 0, width, height], least = Infinity;
    placesBeside(box, width, height).forEach((place, rank) => {
      const [x, y] = place.map((start, side) => Math.max(Math.min(start, frame[side] - sizes[index][side]), 0));
      const name = [x, y, x + width, y + height];
      const cost = 100 * overlap(name, taken) + overlap(name, others) + rank * 0.05 * width * height;
      if (cost < least) [best, least] = [name, cost];
    });
    taken.push(best);
  });
  return taken.map(([x, y]) => [x, y]);
}
