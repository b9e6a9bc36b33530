"""Draw predictions beside ground truth, from what ``mim test ... --out`` writes.

    mim test mmdet CONFIG --checkpoint CHECKPOINT --out predictions.pkl
    mim test mmseg CONFIG --checkpoint CHECKPOINT --out predictions
    mim test mmpretrain CONFIG --checkpoint CHECKPOINT --out predictions.pkl
    python tools/analysis_tools/draw_predictions.py CONFIG PREDICTIONS pictures

writes one picture an image and ``overview.png`` with all of them: boxes, boxes with masks, segmentation
maps, or single images with the predicted class.
"""

import argparse
import functools
import pickle
import sys
from pathlib import Path

import numpy as np
import pycocotools.mask
from mmengine.config import Config, DictAction
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from mmmobilemamba.utils import codebase_of

COLORS = ((230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180),
          (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212))  # fmt: skip
LUMINANCE = (0.299, 0.587, 0.114)
RIGHT, WRONG = (40, 150, 60), (210, 30, 50)
IGNORED = 255  # in segmentation maps: not part of the ground truth
BACKGROUND = 'background'  # this class keeps the image's own colours
GAP, CAPTION, BORDER = 8, 22, 4
CROP_SIDE = 160  # px, at which images to classify are shown before --scale
LEAST_AREA = 0.002  # of the image, of a region that is worth a name
FONT = ImageFont.load_default(size=15)


class PredictionsError(RuntimeError):
    """The predictions cannot be drawn; the message says why and what to do."""


def enlarge(image, scale):
    """``image`` ``scale`` times as large."""
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)


def tint(image, mask, color):
    """Lay ``color`` half transparently over ``mask``, bool (h, w), which is enlarged to the image."""
    stencil = Image.fromarray(mask.astype(np.uint8) * 128).resize(image.size, Image.Resampling.NEAREST)
    image.paste(Image.new('RGB', image.size, color), mask=stencil)


def write_name(canvas, text, left, top, color, width):
    """Write ``text`` on ``color`` just above ``top``, px, and not beyond ``width``."""
    place = (min(left, width - FONT.getlength(text)), max(top - 18, 0))
    canvas.rectangle(canvas.textbbox(place, text, font=FONT), fill=color)
    canvas.text(place, text, fill='black' if np.dot(color, LUMINANCE) > 110 else 'white', font=FONT)


def draw_instances(image, boxes, labels, classes, scale, scores=None, masks=()):
    """Enlarge an image and draw its boxes and masks.

    Args:
        image (Image): RGB.
        boxes (ndarray): (M, 4), corners x1, y1, x2, y2 in pixels of ``image``.
        labels (ndarray): (M,), indices into ``classes``.
        classes (Sequence[str]): Names.
        scale (int): Enlargement.
        scores (ndarray | None): (M,), or None for ground truth.
        masks (Sequence[ndarray]): M of bool (height, width), or none.

    Returns:
        Image: ``scale`` times as large.
    """
    image = enlarge(image, scale)
    for mask, label in zip(masks, labels):
        tint(image, mask, COLORS[label % len(COLORS)])
    canvas = ImageDraw.Draw(image)
    for index, (box, label) in enumerate(zip(boxes, labels)):
        color = COLORS[label % len(COLORS)]
        left, top, right, bottom = (float(side) * scale for side in box)
        canvas.rectangle((left, top, right, bottom), outline=color, width=2)
        text = classes[label] if scores is None else f'{classes[label]} {scores[index]:.2f}'
        write_name(canvas, text, left, top, color, image.width)
    return image


def draw_map(image, labels, classes, palette, scale):
    """Enlarge an image, colour its segments, and name those that are not tiny.

    Args:
        image (Image): RGB.
        labels (ndarray): int (height, width), indices into ``classes``, or ``IGNORED``, which is blackened.
        classes (Sequence[str]): Names; ``BACKGROUND`` is left as it is.
        palette (Sequence): A colour of 3 ints for every class.
        scale (int): Enlargement.

    Returns:
        Image: ``scale`` times as large.
    """
    image, names = enlarge(image, scale), []
    tint(image, labels == IGNORED, (0, 0, 0))
    for label in np.setdiff1d(labels, [IGNORED]):
        if classes[label] == BACKGROUND:
            continue
        tint(image, labels == label, tuple(palette[label]))
        regions, _ = ndimage.label(labels == label)
        for index, (rows, columns) in enumerate(ndimage.find_objects(regions), 1):
            if (regions == index).sum() >= LEAST_AREA * labels.size:
                names.append((label, columns.start * scale, rows.start * scale))
    canvas = ImageDraw.Draw(image)
    for label, left, top in names:
        write_name(canvas, classes[label], left, top, tuple(palette[label]), image.width)
    return image


def draw_class(image, truth, predicted, score, scale):
    """An image at ``scale * CROP_SIDE`` px, framed by whether its class was found, below a caption.

    ``truth`` and ``predicted`` are names, ``score`` is the probability of the latter.
    """
    color = RIGHT if predicted == truth else WRONG
    side = scale * CROP_SIDE
    sheet = Image.new('RGB', (side, side + CAPTION), 'white')
    canvas = ImageDraw.Draw(sheet)
    canvas.text((4, 2), f'{truth}: predicted {predicted} {score:.2f}', fill=color, font=FONT)
    canvas.rectangle((0, CAPTION, side, side + CAPTION), fill=color)
    inner = (side - 2 * BORDER, side - 2 * BORDER)
    sheet.paste(image.resize(inner, Image.Resampling.BICUBIC), (BORDER, CAPTION + BORDER))
    return sheet


def side_by_side(truth, predicted):
    """Ground truth at the left, predictions at the right, each under its caption."""
    width, height = truth.size
    sheet = Image.new('RGB', (2 * width + GAP, height + CAPTION), 'white')
    canvas = ImageDraw.Draw(sheet)
    for place, (text, image) in enumerate((('ground truth', truth), ('predictions', predicted))):
        left = place * (width + GAP)
        canvas.text((left + 4, 2), text, fill='black', font=FONT)
        sheet.paste(image, (left, CAPTION))
    return sheet


def overview(pictures, columns):
    """All pictures on one sheet, in cells of the largest one's size."""
    width, height = (max(sides) for sides in zip(*(picture.size for picture in pictures)))
    rows = -(-len(pictures) // columns)
    sheet = Image.new('RGB', (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), (120, 120, 120))
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(picture, (GAP + column * (width + GAP), GAP + row * (height + GAP)))
    return sheet


def decode_mask(code, height, width):
    """A mask, bool (height, width), from COCO's polygons, or its run lengths, compressed or not."""
    if isinstance(code, list):
        code = pycocotools.mask.merge(pycocotools.mask.frPyObjects(code, height, width))
    elif isinstance(code['counts'], list):
        code = pycocotools.mask.frPyObjects(code, height, width)
    return pycocotools.mask.decode(code).astype(bool)


def draw_scene(prediction, truth, classes, scale, threshold):
    """One scene: ``prediction`` as mmdet's DumpDetResults writes it, ``truth`` as its dataset reads it."""
    image = Image.open(prediction['img_path']).convert('RGB')
    found = dict(prediction['pred_instances'])
    codes = found.pop('masks', None)
    boxes, labels, scores = (np.asarray(found[key]) for key in ('bboxes', 'labels', 'scores'))
    sure = np.flatnonzero(scores >= threshold)
    expected = truth['instances']
    true_masks, masks = (), ()
    if codes is not None:
        true_masks = [decode_mask(each['mask'], image.height, image.width) for each in expected]
        masks = [decode_mask(codes[index], image.height, image.width) for index in sure]
    true_boxes = np.array([each['bbox'] for each in expected]).reshape(-1, 4)
    true_labels = np.array([each['bbox_label'] for each in expected], dtype=int)
    return side_by_side(
        draw_instances(image, true_boxes, true_labels, classes, scale, masks=true_masks),
        draw_instances(image, boxes[sure], labels[sure], classes, scale, scores[sure], masks),
    )


def draw_segments(predicted, truth, classes, palette, scale):
    """One image: ``predicted`` is the file of mmseg's IoUMetric, ``truth`` as its dataset reads it."""
    image = Image.open(truth['img_path']).convert('RGB')
    maps = [np.asarray(Image.open(path)).astype(int) for path in (truth['seg_map_path'], predicted)]
    if truth['reduce_zero_label']:  # in both files 0 means nothing, and classes count from 1
        maps = [np.where(labels == 0, IGNORED, labels - 1) for labels in maps]
    expected, found = (draw_map(image, labels, classes, palette, scale) for labels in maps)
    return side_by_side(expected, found)


def draw_crop(prediction, classes, scale):
    """One image: ``prediction`` as mmengine's DumpResults writes it for mmpretrain."""
    truth, label = (int(prediction[key]) for key in ('gt_label', 'pred_label'))
    image = Image.open(prediction['img_path']).convert('RGB')
    return draw_class(image, classes[truth], classes[label], float(prediction['pred_score'][label]), scale)


def load_pickle(path):
    """Predictions from a file of our own making."""
    if not path.is_file():
        raise PredictionsError(f'There is no file {path}; `mim test ... --out {path}` writes it.')
    return pickle.loads(path.read_bytes())


def detections(path, dataset, args):
    """For every image its name and a function that draws its boxes."""
    truths = {info['img_id']: info for info in map(dataset.get_data_info, range(len(dataset)))}
    options = dict(classes=dataset.metainfo['classes'], scale=args.scale, threshold=args.score_thr)
    return [
        (each['img_path'], functools.partial(draw_scene, each, truths[each['img_id']], **options))
        for each in load_pickle(path)
    ]


def segmentations(path, dataset, args):
    """For every image its name and a function that draws its segments."""
    if not path.is_dir():
        raise PredictionsError(f'There is no folder {path}; `mim test ... --out {path}` makes it.')
    options = dict(classes=dataset.metainfo['classes'], palette=dataset.metainfo['palette'], scale=args.scale)
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    maps = [(path / f'{Path(info["img_path"]).stem}.png', info) for info in infos]
    return [
        (info['img_path'], functools.partial(draw_segments, file, info, **options))
        for file, info in maps
        if file.is_file()
    ]


def classifications(path, dataset, args):
    """For every image its name and a function that draws it with its class."""
    options = dict(classes=dataset.metainfo['classes'], scale=args.scale)
    return [(each['img_path'], functools.partial(draw_crop, each, **options)) for each in load_pickle(path)]


READERS = {'mmdet': detections, 'mmseg': segmentations, 'mmpretrain': classifications}


def draw(args):
    """Write the pictures that the command line ``args`` (Namespace) asks for, and return how many.

    Raises:
        PredictionsError: If the config's codebase is not one of ``READERS``, or the predictions are absent.
    """
    config = Config.fromfile(args.config)
    config.merge_from_dict(args.cfg_options or {})
    scope = codebase_of(config)
    if scope not in READERS:
        known = ', '.join(READERS)
        raise PredictionsError(
            f'{args.config} has default_scope {config.get("default_scope")!r}; known are {known}.'
        )
    init_default_scope(scope)
    dataset = DATASETS.build(config.test_dataloader.dataset)
    samples = READERS[scope](args.predictions, dataset, args)
    if not samples:
        raise PredictionsError(f'{args.predictions} holds no predictions for the images of {args.config}.')
    picked = np.linspace(0, len(samples) - 1, min(args.number, len(samples))).round().astype(int)
    args.out.mkdir(parents=True, exist_ok=True)
    pictures = []
    for name, draw_one in (samples[index] for index in picked):
        pictures.append(draw_one())
        pictures[-1].save(args.out / f'{Path(name).stem}.png')
    overview(pictures, args.columns).save(args.out / 'overview.png')
    return len(pictures)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('config', help='config whose test dataset was predicted')
    parser.add_argument('predictions', type=Path, help='file or folder written by --out')
    parser.add_argument('out', type=Path, help='folder for the pictures')
    parser.add_argument('--number', type=int, default=12, help='images to draw, evenly spread; default 12')
    parser.add_argument('--columns', type=int, default=2, help='pictures a row of the overview; default 2')
    parser.add_argument('--score-thr', type=float, default=0.3, help='least score of a box; default 0.3')
    parser.add_argument('--scale', type=int, default=3, help='enlargement; default 3')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='changes of the config')
    args = parser.parse_args(argv)
    if min(args.number, args.columns, args.scale) < 1:
        parser.error('--number, --columns and --scale must be 1 or more')
    try:
        number = draw(args)
    except PredictionsError as error:
        sys.exit(f'draw_predictions.py: error: {error}')
    overview_path = args.out.resolve() / 'overview.png'
    print(f'{number} pictures, ground truth and predictions: {overview_path}')


if __name__ == '__main__':
    main()
