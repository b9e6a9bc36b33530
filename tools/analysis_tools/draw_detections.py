"""Draw predictions beside ground truth, from the file that ``mim test ... --out`` writes.

    mim test mmdet CONFIG --checkpoint CHECKPOINT --out predictions.pkl
    python tools/analysis_tools/draw_detections.py CONFIG predictions.pkl pictures

writes one picture a scene and ``overview.png`` with all of them.
"""

import argparse
import pickle
import sys
from pathlib import Path

import numpy as np
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image, ImageDraw, ImageFont

COLORS = ((230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180),
          (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212))  # fmt: skip
GAP, CAPTION = 8, 22


def draw_boxes(image, boxes, labels, scores, classes, scale):
    """Enlarge an image and draw its boxes.

    Args:
        image (Image): RGB.
        boxes (ndarray): (M, 4), corners x1, y1, x2, y2 in pixels of ``image``.
        labels (ndarray): (M,), indices into ``classes``.
        scores (ndarray | None): (M,), or None for ground truth.
        classes (Sequence[str]): Names.
        scale (int): Enlargement.

    Returns:
        Image: ``scale`` times as large.
    """
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
    canvas, font = ImageDraw.Draw(image), ImageFont.load_default(size=15)
    for index, (box, label) in enumerate(zip(boxes, labels)):
        color = COLORS[label % len(COLORS)]
        left, top, right, bottom = (float(side) * scale for side in box)
        canvas.rectangle((left, top, right, bottom), outline=color, width=2)
        text = classes[label] if scores is None else f'{classes[label]} {scores[index]:.2f}'
        place = (min(left, image.width - 10 * len(text)), max(top - 18, 0))
        canvas.rectangle(canvas.textbbox(place, text, font=font), fill=(0, 0, 0))
        canvas.text(place, text, fill=color, font=font)
    return image


def side_by_side(truth, predicted):
    """Ground truth at the left, predictions at the right, each under its caption."""
    width, height = truth.size
    sheet = Image.new('RGB', (2 * width + GAP, height + CAPTION), 'white')
    canvas, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for place, (text, image) in enumerate((('ground truth', truth), ('predictions', predicted))):
        left = place * (width + GAP)
        canvas.text((left + 4, 2), text, fill='black', font=font)
        sheet.paste(image, (left, CAPTION))
    return sheet


def overview(pictures, columns=2):
    """All pictures on one sheet, in cells of the largest one's size."""
    width, height = (max(sides) for sides in zip(*(picture.size for picture in pictures)))
    rows = -(-len(pictures) // columns)
    sheet = Image.new('RGB', (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), (120, 120, 120))
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(picture, (GAP + column * (width + GAP), GAP + row * (height + GAP)))
    return sheet


def draw_scene(prediction, truth, classes, threshold, scale):
    """One scene: ``prediction`` as mmdet's DumpDetResults writes it, ``truth`` as its dataset reads it."""
    image = Image.open(prediction['img_path']).convert('RGB')
    boxes = np.array([instance['bbox'] for instance in truth['instances']]).reshape(-1, 4)
    labels = np.array([instance['bbox_label'] for instance in truth['instances']], dtype=int)
    expected = draw_boxes(image, boxes, labels, None, classes, scale)
    found = {key: np.asarray(value) for key, value in prediction['pred_instances'].items() if key != 'masks'}
    sure = found['scores'] >= threshold
    predicted = draw_boxes(
        image, found['bboxes'][sure], found['labels'][sure], found['scores'][sure], classes, scale
    )
    return side_by_side(expected, predicted)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('config', help='config whose test dataset was predicted')
    parser.add_argument('predictions', type=Path, help='file written by --out')
    parser.add_argument('out', type=Path, help='folder for the pictures')
    parser.add_argument('--number', type=int, default=12, help='scenes to draw, evenly spread; default 12')
    parser.add_argument('--score-thr', type=float, default=0.3, help='least score to draw; default 0.3')
    parser.add_argument('--scale', type=int, default=3, help='enlargement; default 3')
    args = parser.parse_args(argv)
    if args.number < 1 or args.scale < 1:
        parser.error('--number and --scale must be 1 or more')
    if not args.predictions.is_file():
        sys.exit(f'There is no {args.predictions}; `mim test ... --out {args.predictions}` writes it.')

    config = Config.fromfile(args.config)
    init_default_scope('mmdet')
    dataset = DATASETS.build(config.test_dataloader.dataset)
    truths = {info['img_id']: info for info in map(dataset.get_data_info, range(len(dataset)))}
    # A file of our own making: mmdet's DumpDetResults pickles it.
    predictions = pickle.loads(args.predictions.read_bytes())
    if not predictions:
        sys.exit(f'{args.predictions} holds no predictions.')
    picked = np.linspace(0, len(predictions) - 1, min(args.number, len(predictions))).round().astype(int)
    args.out.mkdir(parents=True, exist_ok=True)
    pictures = []
    for index in picked:
        prediction = predictions[index]
        picture = draw_scene(
            prediction, truths[prediction['img_id']], dataset.metainfo['classes'], args.score_thr, args.scale
        )
        picture.save(args.out / f'{Path(prediction["img_path"]).stem}.png')
        pictures.append(picture)
    overview(pictures).save(args.out / 'overview.png')
    print(f'{len(pictures)} scenes, ground truth beside predictions: {args.out.resolve() / "overview.png"}')


if __name__ == '__main__':
    main()
