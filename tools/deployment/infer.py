"""Run an exported network on pictures. Needs only the runtime, NumPy, Pillow and tqdm.

    python tools/deployment/infer.py MODEL.onnx IMAGE_OR_FOLDER --out DIR
    mim run mmmobilemamba infer MODEL.onnx IMAGE_OR_FOLDER --out DIR

Accepts files for any runtime, and prepares pictures like the test pipeline of the network's config. Draws
each picture to DIR/NAME.png, and writes the numbers to DIR/results.json. To use the script elsewhere, copy it
with the four modules that it imports from its folder, and all files of the network. In Python:

    network = Network('MODEL.onnx')
    batch, placement = network.prepare(PIL.Image.open('a.jpg'))
    found = network.found(network.run(batch), 0, placement)
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

try:
    import numpy as np
    from PIL import Image
    from tqdm import tqdm
except ImportError as missing:
    raise SystemExit(
        f'infer.py: error: {missing}. It needs: python -m pip install numpy pillow tqdm'
    ) from None
try:
    import choose
    import drawing
    import pictures
    import runtimes
except ImportError as missing:
    raise SystemExit(
        f'infer.py: error: {missing}. Copy choose.py, drawing.py, pictures.py and runtimes.py beside it.'
    ) from None

FIELDS = ('task', 'mean', 'std', 'channels', 'pad_divisor', 'labels', 'resize', 'size', 'preprocessed')
MASK_THRESHOLD = 0.5


class Network(pictures.Preparation):
    """The network in the file at ``path``, with ``threads`` CPU threads (default: one per core)."""

    def __init__(self, path, threads=None):
        try:
            self.session = runtimes.open_file(path, threads)
        except runtimes.RuntimeFileError as error:
            raise pictures.NetworkError(str(error)) from error
        self.path, about = self.session.path, self.session.about
        check_about(self.session)
        if about['task'] not in drawing.DRAW:
            raise pictures.NetworkError(
                f'{self.path} has the task {about["task"]}; it must be {" or ".join(drawing.DRAW)}.'
            )
        if 'load' not in about:
            warnings.warn(
                f"{self.path.name} does not say how pictures are read: OpenCV's way counts, turning photos "
                f'by their EXIF data. Recipes for classification read otherwise. Export the network again.',
                stacklevel=2,
            )
        super().__init__(about, self.path.name)
        self.task, self.labels = about['task'], about['labels']
        self.fonts = [None]  # font files for names in pictures; None is Pillow's built-in ASCII font

    def name_of(self, label):
        """Name of a class, or its number if the file has no names."""
        return self.labels[label] if label < len(self.labels) else str(label)

    def run(self, batch):
        """Outputs (dict[str, ndarray]) for a batch, see :meth:`prepare`; the first axis is the image."""
        try:
            return choose.choose(self.session.run(batch), self.about)
        except (runtimes.RuntimeFileError, ValueError) as error:
            raise pictures.NetworkError(str(error)) from error

    def found(self, outputs, index, placement, score_threshold=0.3, topk=5):
        """Results for image ``index`` of a batch, in pixels of its picture of height H and width W (dict).

        Classification: scores and labels (topk,), the best first. Detection: boxes (M, 4) as x1 y1 x2 y2,
        scores and labels (M,), the best first, and with a mask head masks, bool (M, H, W). Segmentation:
        classes (H, W). Backbone: maps, a dict of (C, h, w).
        """
        outputs = {name: values[index] for name, values in outputs.items()}
        if self.task == 'backbone':
            return dict(maps=outputs)
        if self.task == 'classification':
            return best_classes(outputs, topk)
        if self.task == 'segmentation':
            return dict(classes=placement.map_back(outputs['classes']))
        return objects(outputs, placement, score_threshold)

    def summary(self, found):
        """The result of :meth:`found` in a form for JSON (dict)."""
        if 'maps' in found:
            return dict(maps={name: list(values.shape) for name, values in found['maps'].items()})
        if 'classes' in found:
            labels, counts = np.unique(found['classes'], return_counts=True)
            order = np.argsort(-counts, kind='stable')
            numbers = dict(label=labels[order].tolist(), share=(counts[order] / counts.sum()).tolist())
        else:
            numbers = dict(label=found['labels'].tolist(), score=found['scores'].tolist())
            if 'boxes' in found:
                numbers['box'] = found['boxes'].round(3).tolist()
            if 'masks' in found:
                numbers['mask_area'] = found['masks'].sum((1, 2)).tolist()
        numbers = dict(name=[self.name_of(label) for label in numbers['label']], **numbers)
        entries = [dict(zip(numbers, values)) for values in zip(*numbers.values())]
        return {'objects' if 'boxes' in found else 'classes': entries}


def check_about(session):
    """Check that the metadata of a file (runtimes.Session) is complete."""
    about, path = session.about, session.path
    fields = list(FIELDS)
    if path.suffix == '.onnx':
        where = f'The metadata {runtimes.KEY} of {path}'
    else:
        where, fields = f'{path.name}.json, which belongs beside {path},', [*FIELDS, 'outputs', 'input']
        if about.get('task') == 'detection':
            fields.append('candidates')
    missing = ', '.join(field for field in fields if field not in about)
    if missing:
        raise pictures.NetworkError(
            f'{where} lacks {missing}. Export the network with tools/deployment/export.py, which writes it.'
        )
    if fields[-1] == 'candidates' and about['candidates'].get('kind') not in choose.KINDS:
        raise pictures.NetworkError(
            f'{where} has candidates of the kind {about["candidates"].get("kind")!r}; infer.py knows '
            f'{", ".join(choose.KINDS)}: take the infer.py, runtimes.py and choose.py of the export.'
        )


def objects(outputs, placement, score_threshold):
    """Objects that a detector found in an image, see :meth:`Network.found`."""
    boxes, scores = outputs['boxes'], outputs['scores']
    boxes = (boxes + np.tile(placement.offset, 2)) / np.tile(placement.scale, 2)
    clipped = np.clip(boxes, 0, np.tile(placement.size, 2))
    inside = (clipped[:, 2:] > clipped[:, :2]).all(1)  # boxes may lie in the padding
    kept = np.flatnonzero((scores > 0) & (scores >= score_threshold) & inside)
    found = dict(boxes=clipped[kept], scores=scores[kept], labels=outputs['labels'][kept])
    if 'masks' in outputs:
        found['masks'] = np.zeros((len(kept), *placement.size[::-1]), bool)
        for target, index in zip(found['masks'], kept):
            target[:] = paste(outputs['masks'][index], boxes[index], placement.size)
    return found


def paste(mask, box, size):
    """Paste a mask (h, w), 0..1, into a box, x1 y1 x2 y2 in px; bool (H, W) for a picture of ``size``."""
    pasted = np.zeros(size[::-1], bool)
    padded, places, slices = np.pad(mask, 1), [], []  # zeros around it, as in mmdet
    for axis, (low, high, side) in enumerate(zip(box[1::-1], box[:1:-1], size[::-1])):
        first, last = (int(np.clip(np.ceil(edge - 0.5), 0, side)) for edge in (low, high))
        centres = np.arange(first, last) + 0.5  # of the pixels in the box
        places.append((centres - low) / max(high - low, 1e-6) * mask.shape[axis] + 0.5)
        slices.append(slice(first, last))
    pasted[tuple(slices)] = pictures.sample(padded, *places) >= MASK_THRESHOLD
    return pasted


def best_classes(outputs, topk):
    """The best classes, see :meth:`Network.found`; from the logits if ``topk`` exceeds the file's."""
    scores, labels = outputs['scores'], outputs['labels']
    if topk > len(scores):
        scores, labels = choose.ranked(outputs['logits'])
    return dict(scores=scores[:topk], labels=labels[:topk])


def parse_args(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('model', type=Path, help='exported file, for any runtime')
    parser.add_argument('pictures', type=Path, help='a picture, or a folder with pictures')
    parser.add_argument('--out', type=Path, required=True, help='output folder, created if missing')
    parser.add_argument(
        '--score-threshold', type=float, default=0.3, help='minimum score of objects (default: 0.3)'
    )
    parser.add_argument(
        '--topk', type=int, default=5, help='number of classes listed by a classifier (default: 5)'
    )
    parser.add_argument('--font', type=Path, help='font file (TrueType or OpenType) for class names')
    parser.add_argument('--threads', type=int, help='CPU threads (default: one per core)')
    args = parser.parse_args(argv)
    if not 0 <= args.score_threshold <= 1:
        parser.error(f'--score-threshold must be from 0 to 1, not {args.score_threshold}')
    if args.topk < 1 or (args.threads is not None and args.threads < 1):
        parser.error('--topk and --threads must be 1 or more')
    file = next((path for path in (args.out, *args.out.parents) if path.is_file()), None)
    if file:
        parser.error(f'--out must be a folder, but {file} is a file')
    return args


def list_pictures(path, out):
    """Pictures (list[Path]) at ``path``, a file or a folder; ``out`` must be another folder."""
    if not path.exists():
        raise pictures.NetworkError(f'There is no picture or folder {path}.')
    paths = [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith('.'))
        paths = [p for p in files if p.suffix.lower() in pictures.SUFFIXES]
        endings = ', '.join(pictures.SUFFIXES)
        if not paths:
            raise pictures.NetworkError(f'The folder {path} has no pictures; they must end in {endings}.')
        others = [p.name for p in files if p not in paths]
        if others:
            more = f' and {len(others) - 3} more' if len(others) > 3 else ''
            print(
                f'left out of {path}: {", ".join(others[:3])}{more}; pictures end in {endings}',
                file=sys.stderr,
            )
    if paths[0].parent.resolve() == out.resolve():
        raise pictures.NetworkError(
            f'--out {out} is where the pictures are, and may overwrite them; name another.'
        )
    return paths


def infer(network, path, target, args):
    """Run the network on the picture at ``path``, draw the result to ``target``, and return it for JSON."""
    try:
        with Image.open(path) as file:
            picture = network.read(file)
            picture.load()
    except pictures.NetworkError:
        raise
    except Exception as error:  # Pillow raises many types, depending on the format
        raise pictures.NetworkError(f'It cannot be read: {error}') from error
    batch, placement = network.prepare(picture)
    found = network.found(network.run(batch), 0, placement, args.score_threshold, args.topk)
    drawing.DRAW[network.task](picture.convert('RGB'), network, found).save(target)
    about = dict(file=path.name, drawn=target.name, width=picture.width, height=picture.height)
    return dict(about, **network.summary(found))


def main(argv=None):
    args = parse_args(argv)
    try:
        paths = list_pictures(args.pictures, args.out)
        network = Network(args.model, args.threads)
        network.fonts, warning = drawing.choose_fonts(network.labels, args.font)
        args.out.mkdir(parents=True, exist_ok=True)
    except (pictures.NetworkError, OSError) as error:
        sys.exit(f'infer.py: error: {error}')
    if warning:
        print(f'infer.py: warning: {warning}', file=sys.stderr)
    alike = len({path.stem.lower() for path in paths}) < len(paths)  # such as a.jpg and a.png
    results, skipped = [], []
    for path in tqdm(paths, unit='picture', disable=not args.pictures.is_dir()):
        target = args.out / f'{path.name if alike else path.stem}.png'
        try:
            results.append(infer(network, path, target, args))
        except pictures.NetworkError as error:
            tqdm.write(f'{path} was skipped. {error}', file=sys.stderr)
            skipped.append(path.name)
    content = dict(model=args.model.name, task=network.task, pictures=results, skipped=skipped)
    (args.out / 'results.json').write_text(json.dumps(content, indent=1) + '\n')
    print(f'{args.out}: results.json and {len(results)} of {len(paths)} pictures')
    if skipped:
        sys.exit(1)


if __name__ == '__main__':
    main()
