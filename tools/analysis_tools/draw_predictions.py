"""Draw predictions beside ground truth, from what ``mim test ... --out`` writes.

    mim test mmdet CONFIG --checkpoint CHECKPOINT --out predictions.pkl
    mim test mmseg CONFIG --checkpoint CHECKPOINT --out predictions
    mim test mmpretrain CONFIG --checkpoint CHECKPOINT --out predictions.pkl
    python tools/analysis_tools/draw_predictions.py CONFIG PREDICTIONS pictures

Writes one picture per image, and ``overview.png`` with all of them: boxes, boxes with masks, segmentation
maps, or single images with the predicted class. Images are read with the loader of the config's test
pipeline. Without ground truth, only the predictions are drawn.
"""

from __future__ import annotations

import argparse
import colorsys
import functools
import os
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pycocotools.mask
from mmengine.config import DictAction
from mmengine.registry import TRANSFORMS
from PIL import Image, ImageDraw, ImageOps
from scipy import ndimage

from mmmobilemamba.utils import config_argument, read_config
from mmmobilemamba.utils.fonts import FontError, NameFont, choose_fonts, one_line
from mmmobilemamba.utils.name_places import place_names
from mmmobilemamba.utils.test_results import (
    LabelMaps,
    ResultsError,
    build_test_data,
    check_codebase,
    ignored_labels,
    label_map_reader,
    load_predictions,
    match,
    samples_of,
)

COLORS = ((230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180),
          (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212))  # fmt: skip
LUMINANCE = (0.299, 0.587, 0.114)
RIGHT, WRONG, UNKNOWN = (40, 150, 60), (210, 30, 50), (90, 90, 90)
IGNORED = 255  # in segmentation maps: not part of the ground truth
BACKGROUND = 'background'  # this class keeps the image's own colours
GAP, CAPTION, BORDER = 8, 22, 4
CROP_SIDE = 160  # px, at which images to classify are shown before --scale
SCALE, LARGEST = 3, 2000  # enlargement, and px a side to which it is limited unless it is asked for
LARGEST_OVERVIEW = 12_000  # px a side
LEAST_AREA = 0.002  # of the image, of a region that is worth a name
LONGEST_NAME = 200  # bytes; file systems take 255
FONT = NameFont()


class PredictionsError(ResultsError):
    """The predictions cannot be drawn; the message says why and what to do."""


class Style:
    """What all pictures of a run have in common, and what there is to say about them.

    Args:
        font (NameFont): For names of classes.
        scale (int, optional): Enlargement; ``SCALE`` or what makes ``LARGEST`` px if not given.
        threshold (float): Least score of a box.
    """

    def __init__(self, font=FONT, scale=None, threshold=0.3):
        self.font, self.scale, self.threshold = font, scale, threshold
        self.notes = defaultdict(list)  # images by what is to be said of them

    def factor(self, image):
        """By how much an image is enlarged."""
        return self.scale or min(SCALE, LARGEST / max(image.size))


def name_of(classes, label):
    """Name of a class, or its number if there is none."""
    return one_line(classes[label]) if 0 <= label < len(classes or ()) else f'label {label}'


def enlarge(image, scale):
    """``image`` ``scale`` times as large."""
    size = (max(1, round(side * scale)) for side in image.size)
    return image.resize(tuple(size), Image.Resampling.BICUBIC)


def tint(image, mask, color):
    """Lay ``color`` half transparently over ``mask``, bool (h, w), which is enlarged to the image."""
    stencil = Image.fromarray(mask.astype(np.uint8) * 128).resize(image.size, Image.Resampling.NEAREST)
    image.paste(Image.new('RGB', image.size, color), mask=stencil)


def write_names(image, boxes, texts, colors, font=FONT):
    """Write the name of each box, corners in px, on its color and beside the box; the first ones best."""
    canvas = ImageDraw.Draw(image)
    sizes = [(font.getlength(text), font.height) for text in texts]
    places = place_names(boxes, sizes, image.size)
    for (left, top), (width, height), text, color in zip(places, sizes, texts, colors):
        canvas.rectangle((left, top, left + width, top + height - 1), fill=color)
        font.write(canvas, (left, top), text, 'black' if np.dot(color, LUMINANCE) > 110 else 'white')


def draw_instances(image, boxes, labels, classes, scale, scores=None, masks=(), remarks=None, font=FONT):
    """Enlarge an image and draw its boxes and masks.

    Args:
        image (Image): RGB.
        boxes (ndarray): (M, 4), corners x1, y1, x2, y2 in pixels of ``image``.
        labels (ndarray): (M,), indices into ``classes``.
        classes (Sequence[str]): Names.
        scale (float): Enlargement.
        scores (ndarray | None): (M,), or None for ground truth.
        masks (Sequence[ndarray | None]): M of bool (height, width), None for a box without one; or none.
        remarks (Sequence[str] | None): M texts behind the names.
        font (NameFont): For the names.

    Returns:
        Image: ``scale`` times as large.
    """
    image = enlarge(image, scale)
    for mask, label in zip(masks, labels):
        if mask is not None:
            tint(image, mask, COLORS[label % len(COLORS)])
    canvas = ImageDraw.Draw(image)
    texts = [name_of(classes, label) + remark for label, remark in zip(labels, remarks or [''] * len(labels))]
    if scores is not None:
        texts = [f'{text} {score:.2f}' for text, score in zip(texts, scores)]
    colors = [COLORS[label % len(COLORS)] for label in labels]
    corners = []
    for box, color in zip(boxes, colors):
        sides = np.clip(np.reshape(box, (2, 2)) * scale, 0, np.subtract(image.size, 1))
        corners.append((*sides.min(0).tolist(), *sides.max(0).tolist()))
        canvas.rectangle(corners[-1], outline=color, width=2)
    write_names(image, corners, texts, colors, font)
    return image


def draw_map(image, labels, classes, palette, scale, ignored=(IGNORED,), font=FONT):
    """Enlarge an image, colour its segments, and name those that are not tiny.

    Args:
        image (Image): RGB.
        labels (ndarray): int (height, width), indices into ``classes``. Others are blackened, and named by
            their number.
        classes (Sequence[str]): Names; ``BACKGROUND`` is left as it is.
        palette (Sequence): A colour of 3 ints for every class.
        scale (float): Enlargement.
        ignored (Sequence[int]): Labels that are blackened and not named.
        font (NameFont): For the names.

    Returns:
        Image: ``scale`` times as large.
    """
    image, boxes, names, colors = enlarge(image, scale), [], [], []
    tint(image, np.isin(labels, ignored), (0, 0, 0))
    for label in np.setdiff1d(labels, ignored):
        name, color = name_of(classes, label), (0, 0, 0)
        if name == BACKGROUND:
            continue
        if 0 <= label < len(palette):
            color = tuple(palette[label])
        tint(image, labels == label, color)
        regions, _ = ndimage.label(labels == label)
        areas = np.bincount(regions.ravel())
        for index, (rows, columns) in enumerate(ndimage.find_objects(regions), 1):
            if areas[index] >= LEAST_AREA * labels.size:
                sides = (columns.start, rows.start, columns.stop, rows.stop)
                boxes.append(tuple(side * scale for side in sides))
                names.append(name)
                colors.append(color)
    write_names(image, boxes, names, colors, font)
    return image


def draw_class(image, truth, predicted, score, scale, font=FONT):
    """An image framed by whether its class was found, below a caption, see :func:`draw_framed`.

    ``truth`` and ``predicted`` are names, ``score`` is the probability of the latter.
    """
    color = RIGHT if predicted == truth else WRONG
    return draw_framed(image, f'{truth}: predicted {predicted} {score:.2f}', color, scale, font)


def draw_framed(image, caption, color, scale, font=FONT):
    """An image inside ``scale * CROP_SIDE`` px, in a frame and below a caption of ``color``."""
    side = scale * CROP_SIDE
    lines = wrap(caption, font, side - 8)
    top = CAPTION + len(lines) * (font.height + 1) - FONT.height - 1
    sheet = Image.new('RGB', (side, side + top), 'white')
    canvas = ImageDraw.Draw(sheet)
    for index, line in enumerate(lines):
        font.write(canvas, (4, 2 + index * (font.height + 1)), line, color)
    canvas.rectangle((0, top, side, side + top), fill=color)
    inner = (side - 2 * BORDER, side - 2 * BORDER)
    inside = ImageOps.pad(image, inner, Image.Resampling.BICUBIC, color='white')
    sheet.paste(inside, (BORDER, top + BORDER))
    return sheet


def wrap(text, font, width):
    """``text`` in lines of at most ``width`` px, broken between words, or inside those that are longer."""
    lines = ['']
    for word in text.split():
        if font.getlength(f'{lines[-1]} {word}') <= width:
            lines[-1] = f'{lines[-1]} {word}'.strip()
            continue
        lines += [''] if lines[-1] else []
        for char in word:
            if lines[-1] and font.getlength(lines[-1] + char) > width:
                lines.append('')
            lines[-1] += char
    return lines


def side_by_side(truth, predicted):
    """Ground truth, if there is any, at the left of predictions, each under its caption."""
    parts = [('ground truth', truth), ('predictions', predicted)] if truth else [('predictions', predicted)]
    width, height = predicted.size
    sheet = Image.new('RGB', (len(parts) * (width + GAP) - GAP, height + CAPTION), 'white')
    canvas = ImageDraw.Draw(sheet)
    for place, (text, image) in enumerate(parts):
        left = place * (width + GAP)
        FONT.write(canvas, (left + 4, 2), text, 'black')
        sheet.paste(image, (left, CAPTION))
    return sheet


def overview(pictures, columns):
    """All pictures on one sheet, in cells of the largest one's size; shrunk if that is too large."""
    width, height = (max(sides) for sides in zip(*(picture.size for picture in pictures)))
    rows = -(-len(pictures) // columns)
    factor = min(1, LARGEST_OVERVIEW / (columns * (width + GAP)), LARGEST_OVERVIEW / (rows * (height + GAP)))
    if factor < 1:
        pictures = [enlarge(picture, factor) for picture in pictures]
        width, height = int(width * factor) + 1, int(height * factor) + 1
    sheet = Image.new('RGB', (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), (120, 120, 120))
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(picture, (GAP + column * (width + GAP), GAP + row * (height + GAP)))
    return sheet


def check_size(what, shape, image):
    """Make sure that labels or a mask of (height, width) fit an image.

    Raises:
        PredictionsError: If not.
    """
    if tuple(shape) != (image.height, image.width):
        raise PredictionsError(
            f'{what} of shape {tuple(shape)} does not fit the picture, which is {image.height} x '
            f'{image.width} px (height x width) to the test pipeline.'
        )


def decode_mask(code, height, width):
    """A mask, bool (H, W), from an array, or from COCO's polygons, or its run lengths, compressed or not."""
    if not isinstance(code, (list, dict)):
        return np.asarray(code).astype(bool)
    if isinstance(code, list):
        # What has no three corners, or half a one, is no polygon to mmdet either.
        polygons = [each for each in code if len(each) >= 6 and len(each) % 2 == 0]
        if not polygons:
            return np.zeros((height, width), bool)
        code = pycocotools.mask.merge(pycocotools.mask.frPyObjects(polygons, height, width))
    elif isinstance(code['counts'], list):
        code = pycocotools.mask.frPyObjects(code, height, width)
    return pycocotools.mask.decode(code).astype(bool)


def draw_truth(image, instances, classes, style, with_masks):
    """The ground truth of a scene, a list of mmdet's ``instances``, any field of which may be missing."""
    boxes, labels, masks, remarks = [], [], [], []
    for each in instances:
        mask = decode_mask(each['mask'], image.height, image.width) if each.get('mask') else None
        if mask is not None:
            check_size('A mask of the ground truth', mask.shape, image)
        box = each.get('bbox')
        if box is None and mask is not None and mask.any():
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        if box is not None:
            boxes.append(box)
            labels.append(int(each.get('bbox_label', -1)))
            masks.append(mask)
            remarks.append(' (ignored)' if each.get('ignore_flag') else '')
    return draw_instances(
        image,
        *(boxes, labels, classes, style.factor(image)),
        masks=masks if with_masks else (),
        remarks=remarks,
        font=style.font,
    )


def draw_scene(prediction, sample, style, labelled):
    """One scene: ``prediction`` as mmdet's DumpDetResults, or mmengine's DumpResults, writes it."""
    if 'pred_instances' not in prediction:
        raise PredictionsError('There are no boxes (pred_instances) among the predictions.')
    image, classes = sample.read(), sample.dataset.metainfo.get('classes')
    if prediction.get('ori_shape') is not None:
        check_size('The picture that the model has seen', prediction['ori_shape'][:2], image)
    found = dict(prediction['pred_instances'])
    codes = found.pop('masks', None)
    boxes, labels, scores = (np.asarray(found[key]) for key in ('bboxes', 'labels', 'scores'))
    finite = np.isfinite(boxes).all(1) & np.isfinite(scores)
    if not finite.all():
        style.notes['boxes or scores that are not finite (NaN) are not drawn'].append(sample.path)
    sure = np.flatnonzero(finite & (scores >= style.threshold))
    masks = ()
    if codes is not None:
        masks = [decode_mask(codes[index], image.height, image.width) for index in sure]
        for mask in masks:
            check_size('A predicted mask', mask.shape, image)
    instances = sample.info.get('instances') or []
    truth = draw_truth(image, instances, classes, style, codes is not None) if labelled else None
    rest = dict(scores=scores[sure], masks=masks, font=style.font)
    predicted = draw_instances(image, boxes[sure], labels[sure], classes, style.factor(image), **rest)
    return side_by_side(truth, predicted)


def colors_of(metainfo):
    """A colour for every class: those of ``palette``, and for classes without one steps round the hues."""
    palette = [tuple(map(int, color)) for color in metainfo.get('palette') or ()]
    for label in range(len(palette), len(metainfo.get('classes') or ())):
        rgb = colorsys.hsv_to_rgb(label * 0.618 % 1, 0.85, 1 - label % 2 * 0.2)
        palette.append(tuple(round(255 * channel) for channel in rgb))
    return palette


def true_labels(sample):
    """Ground truth as the test pipeline reads it, int (H, W), or None if the image has none."""
    path, reader = sample.info.get('seg_map_path'), label_map_reader(sample.dataset)
    if path is None or (reader is None and not Path(path).is_file()):
        return None
    reader = reader or TRANSFORMS.build(dict(type='mmseg.LoadAnnotations'))
    return reader(dict(sample.info))['gt_seg_map'].astype(int)


def draw_segments(maps, index, config, style):
    """One image of LabelMaps."""
    sample = maps.samples[index]
    image, metainfo = sample.read(), sample.dataset.metainfo
    classes, palette = metainfo.get('classes'), colors_of(metainfo)
    ignored = ignored_labels(config, sample.dataset)
    options = dict(classes=classes, palette=palette, scale=style.factor(image), font=style.font)
    predicted, truth = maps.read(index), true_labels(sample)
    check_size('The predicted map', predicted.shape, image)
    if truth is not None:
        check_size('The ground truth', truth.shape, image)
        strange = [int(label) for label in np.setdiff1d(truth, ignored) if label >= len(classes or ())]
        if strange:
            note = f'ground-truth labels outside the classes are drawn black: {", ".join(map(str, strange))}'
            style.notes[note].append(sample.path)
        truth = draw_map(image, truth, ignored=ignored, **options)
    return side_by_side(truth, draw_map(image, predicted, ignored=(-1,), **options))


def draw_crop(prediction, sample, style):
    """One image: ``prediction`` as mmengine's DumpResults writes it for mmpretrain."""
    if 'pred_label' not in prediction or 'pred_score' not in prediction:
        raise PredictionsError('There are no classes (pred_label and pred_score) among the predictions.')
    classes, scores = sample.dataset.metainfo.get('classes'), prediction['pred_score']
    labels = labels_in(prediction, 'pred_label')
    found = [f'{name_of(classes, label)} {float(scores[label]):.2f}' for label in labels]
    caption, color = f'predicted {", ".join(found) or "nothing"}', UNKNOWN
    if prediction.get('gt_label') is not None:
        truth = labels_in(prediction, 'gt_label')
        color = RIGHT if set(truth) == set(labels) else WRONG
        caption = f'{", ".join(name_of(classes, label) for label in truth) or "nothing"}: {caption}'
    return draw_framed(sample.read(), caption, color, style.scale or SCALE, style.font)


def labels_in(prediction, key):
    """Labels (list[int]): one, or any number if there may be several in an image."""
    return np.atleast_1d(np.asarray(prediction[key])).astype(int).tolist()


def detections(path, config, samples, style):
    """For every image its sample and a function that draws its boxes."""
    predictions = load_predictions(path)
    labelled = any(sample.info.get('instances') for sample in samples)
    return [
        (sample, functools.partial(draw_scene, each, sample, style, labelled))
        for each, sample in zip(predictions, match(predictions, samples))
    ]


def segmentations(path, config, samples, style):
    """For every image its sample and a function that draws its segments."""
    maps = LabelMaps(path, config, samples)
    return [
        (sample, functools.partial(draw_segments, maps, index, config, style))
        for index, sample in enumerate(maps.samples)
    ]


def classifications(path, config, samples, style):
    """For every image its sample and a function that draws it with its class."""
    predictions = load_predictions(path)
    return [
        (sample, functools.partial(draw_crop, each, sample, style))
        for each, sample in zip(predictions, match(predictions, samples, strangers=True))
    ]


READERS = {'mmdet': detections, 'mmseg': segmentations, 'mmpretrain': classifications}


def file_names(paths):
    """A name for the picture of every image (list[str]), all different, without a suffix.

    It is the name of the image's file; where several have the same, their folders are before it, and if that
    is not enough their suffix behind it; at last their number.
    """
    paths = [Path(path) if path else Path(f'image_{index}') for index, path in enumerate(paths)]
    parents = [path.parent.parts for path in paths]
    common = next((i for i, parts in enumerate(zip(*parents)) if len(set(parts)) > 1), min(map(len, parents)))
    inner = [path.parts[common:] for path in paths]
    for names in (
        [path.stem for path in paths],
        ['_'.join((*parts[:-1], path.stem)) for parts, path in zip(inner, paths)],
        ['_'.join(parts) for parts in inner],
    ):
        differ = len({name.casefold() for name in (*names, 'overview')}) == len(names) + 1
        if differ and max(len(os.fsencode(name)) for name in names) <= LONGEST_NAME:
            return names
    return [f'{index}_{path.stem[: LONGEST_NAME // 4]}' for index, path in enumerate(paths)]


def draw(args):
    """Write the pictures that the command line ``args`` (Namespace) asks for, and return how many.

    Raises:
        ResultsError: If the config's codebase is not one of ``READERS``, or the predictions are absent, or do
            not fit the data.
        FontError: If there is no such font.
    """
    config = read_config(args.config, args.cfg_options)
    codebase = check_codebase(config, list(READERS))
    samples = samples_of(build_test_data(config, codebase))
    names = {name for sample in samples for name in sample.dataset.metainfo.get('classes') or ()}
    fonts, warning = choose_fonts(sorted(map(str, names)), args.font)
    style = Style(NameFont(fonts), args.scale, args.score_thr)
    drawers = READERS[codebase](args.predictions, config, samples, style)
    if not drawers:
        raise PredictionsError(f'{args.predictions} has no predictions for the images of {args.config}.')
    picked = np.linspace(0, len(drawers) - 1, min(args.number, len(drawers))).round().astype(int)
    titles = file_names([sample.path for sample, _ in drawers])
    args.out.mkdir(parents=True, exist_ok=True)
    pictures = []
    for index in picked:
        try:
            pictures.append(drawers[index][1]())
        except ResultsError as error:
            raise PredictionsError(f'{drawers[index][0].path}: {error}') from error
        pictures[-1].save(args.out / f'{titles[index]}.png')
    overview(pictures, args.columns).save(args.out / 'overview.png')
    for text in [warning] if warning else []:
        print(f'draw_predictions.py: warning: {text}', file=sys.stderr)
    for text, paths in style.notes.items():
        more = f' and {len(paths) - 1} more' if len(paths) > 1 else ''
        print(f'draw_predictions.py: warning: {text} ({paths[0]}{more})', file=sys.stderr)
    return len(pictures)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        'config', type=config_argument, help='config with the test dataset of the predictions'
    )
    parser.add_argument('predictions', type=Path, help='file or folder written by --out')
    parser.add_argument('out', type=Path, help='folder for the pictures')
    parser.add_argument('--number', type=int, default=12, help='images to draw, evenly spread (default: 12)')
    parser.add_argument(
        '--columns', type=int, default=2, help='pictures per row of the overview (default: 2)'
    )
    parser.add_argument('--score-thr', type=float, default=0.3, help='minimum score of a box (default: 0.3)')
    parser.add_argument('--scale', type=int, help='enlargement (default: 3, less for large images)')
    parser.add_argument('--font', type=Path, help='font file (TrueType or OpenType) for class names')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='changes to the config')
    args = parser.parse_args(argv)
    if min(args.number, args.columns, args.scale or 1) < 1:
        parser.error('--number, --columns and --scale must be 1 or more')
    try:
        number = draw(args)
    except (ResultsError, FontError, OSError) as error:
        sys.exit(f'draw_predictions.py: error: {error}')
    overview_path = args.out.resolve() / 'overview.png'
    print(f'{number} pictures, ground truth and predictions: {overview_path}')


if __name__ == '__main__':
    main()
