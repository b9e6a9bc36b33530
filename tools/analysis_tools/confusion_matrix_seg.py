"""Confusion matrix of a segmentor: what the pixels of each class are taken for.

    mim test mmseg CONFIG --checkpoint CHECKPOINT --out predictions
    python tools/analysis_tools/confusion_matrix_seg.py CONFIG predictions OUT

prints for every class its pixels, the share that is found and the class that takes most of the others, and
writes the whole matrix into the folder OUT: ``confusion_matrix.csv`` and ``confusion_matrix.png``, a row for
each true class, in per cent of its pixels. Ground truth is read as the config's test pipeline reads it;
pixels that it ignores are not counted. mmseg's tool of this kind reads class names from the Python class of
the dataset, lowers labels twice under ``reduce_zero_label``, and counts in 8 bits.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config, DictAction
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

MOST_NUMBERS = 30  # classes, up to which every cell has its number
SIDES = (6, 40)  # inches, least and most of the picture
DPI = 100


class MatrixError(RuntimeError):
    """There is nothing to count; the message says why and what to do."""


def count(truth, predicted, number, ignored):
    """Pixels of every pair of classes.

    Args:
        truth (ndarray): Labels of integers, any shape.
        predicted (ndarray): The same for what was predicted.
        number (int): Of classes.
        ignored (int): Label in ``truth`` of pixels that do not count.

    Returns:
        ndarray: int64 (number, number), true classes by predicted ones.

    Raises:
        MatrixError: If shapes differ, or a label is no class.
    """
    if truth.shape != predicted.shape:
        raise MatrixError(f'ground truth has {truth.shape} pixels, the prediction {predicted.shape}')
    counted = truth != ignored
    pairs = [labels[counted].astype(np.int64) for labels in (truth, predicted)]
    for name, labels in zip(('ground truth', 'the prediction'), pairs):
        if labels.size and not 0 <= labels.min() <= labels.max() < number:
            raise MatrixError(
                f'{name} has labels {labels.min()} to {labels.max()}, the config {number} classes'
            )
    return np.bincount(number * pairs[0] + pairs[1], minlength=number**2).reshape(number, number)


def find_loader(dataset):
    """The step of a dataset's pipeline that reads ground truth.

    Raises:
        MatrixError: If there is none.
    """
    for step in getattr(getattr(dataset, 'pipeline', None), 'transforms', ()):
        if type(step).__name__.endswith('LoadAnnotations'):
            return step
    raise MatrixError(f'the test pipeline of {type(dataset).__name__} does not load annotations')


def gather(config, folder):
    """Count over the test dataset of a Config.

    Args:
        config (Config): Of mmseg.
        folder (Path): What ``mim test ... --out`` has written.

    Returns:
        tuple[ndarray, Sequence[str]]: The matrix of :func:`count` and the names of the classes.

    Raises:
        MatrixError: If predictions are missing or do not fit.
    """
    init_default_scope('mmseg')
    dataset = DATASETS.build(config.test_dataloader.dataset)
    load, classes = find_loader(dataset), dataset.metainfo['classes']
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    files = [folder / f'{Path(info["img_path"]).stem}.png' for info in infos]
    absent = [file for file in files if not file.is_file()]
    if absent or not files:
        raise MatrixError(
            f'{len(absent)} of {len(files)} images have no prediction in {folder}'
            f'{f", such as {absent[0].name}" if absent else ""}; `mim test ... --out {folder}` writes them'
        )
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    for info, file in zip(infos, files):
        predicted = np.asarray(Image.open(file)).astype(int)
        if info['reduce_zero_label']:  # then mmseg writes classes from 1 on
            predicted = predicted - 1
        try:
            matrix += count(load(info)['gt_seg_map'], predicted, len(classes), dataset.ignore_index)
        except MatrixError as error:
            raise MatrixError(f'{file}: {error}') from None
    return matrix, classes


def per_cent(matrix):
    """Each row in per cent of its sum; NaN where a class has no pixels."""
    with np.errstate(invalid='ignore'):
        return 100 * matrix / matrix.sum(axis=1, keepdims=True)


def table(matrix, classes):
    """A line for each class, and one for all, of pixels, share that is found, and the worst confusion."""
    shares = per_cent(matrix)
    rows = [('class', 'pixels', 'found, %', 'mostly taken for, %')]
    for index, (name, counts) in enumerate(zip(classes, matrix)):
        if not counts.sum():
            rows.append((name, '0', '', ''))
            continue
        others = np.where(np.arange(len(classes)) == index, -1.0, shares[index])
        other = int(others.argmax())
        confused = f'{classes[other]} {others[other]:.2f}' if others[other] > 0 else ''
        rows.append((name, f'{counts.sum():,}', f'{shares[index, index]:.2f}', confused))
    found = 100 * np.trace(matrix) / max(matrix.sum(), 1)
    rows.append(('all', f'{matrix.sum():,}', f'{found:.2f}', ''))
    width = max(len(row[0]) for row in rows)
    return [
        f'{name:<{width}}{pixels:>15}{share:>10}  {other}'.rstrip() for name, pixels, share, other in rows
    ]


def write_csv(path, matrix, classes):
    """Write names, numbers of pixels and per cents, which are empty for a class without pixels."""
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(['true class', 'pixels', *classes])
        for name, counts, shares in zip(classes, matrix, per_cent(matrix)):
            cells = ['' if np.isnan(share) else f'{share:.2f}' for share in shares]
            writer.writerow([name, counts.sum(), *cells])


def draw(path, matrix, classes):
    """Write the picture, of at most ``SIDES[1] * DPI`` pixels a side."""
    shares, number = per_cent(matrix), len(classes)
    side = float(np.clip(0.35 * number + 3, *SIDES))
    figure = Figure(figsize=(side, side), dpi=DPI, layout='constrained')
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap='Blues', vmin=0, vmax=100)
    axes.set_xticks(range(number), classes, rotation=90, fontsize=8)
    axes.set_yticks(range(number), classes, fontsize=8)
    axes.set(xlabel='predicted class', ylabel='true class', title='Per cent of the pixels of the true class')
    if number <= MOST_NUMBERS:
        for row, column in np.argwhere(~np.isnan(shares)):
            share = shares[row, column]
            color = 'white' if share > 50 else 'black'
            axes.text(column, row, f'{share:.1f}', ha='center', va='center', fontsize=7, color=color)
    figure.colorbar(image, ax=axes, shrink=0.8)
    figure.savefig(path)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('config', help='config of mmseg whose test dataset was predicted')
    parser.add_argument('predictions', type=Path, help='folder written by --out')
    parser.add_argument('out', type=Path, help='folder for the matrix')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='changes of the config')
    args = parser.parse_args(argv)
    config = Config.fromfile(args.config)
    config.merge_from_dict(args.cfg_options or {})
    try:
        matrix, classes = gather(config, args.predictions)
    except MatrixError as error:
        sys.exit(f'confusion_matrix_seg.py: error: {error}')
    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(args.out / 'confusion_matrix.csv', matrix, classes)
    draw(args.out / 'confusion_matrix.png', matrix, classes)
    print('\n'.join(table(matrix, classes)))
    print(f'Matrix: {args.out.resolve() / "confusion_matrix.csv"} and .png')


if __name__ == '__main__':
    main()
