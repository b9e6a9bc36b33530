"""Compute the confusion matrix of a segmentor over pixels.

    mim test mmseg CONFIG --checkpoint CHECKPOINT --out predictions
    python tools/analysis_tools/confusion_matrix_seg.py CONFIG predictions OUT

Prints, for each class, the number of pixels, the share predicted correctly and the class it is most often
confused with. Writes the whole matrix to ``confusion_matrix.csv`` and ``confusion_matrix.png`` in the folder
OUT, with one row per true class, in per cent of its pixels. Ground truth is loaded with the config's test
pipeline; ignored pixels are not counted. mmseg's own tool reads class names from the dataset's Python class,
shifts labels twice with ``reduce_zero_label``, and counts in 8-bit integers.
"""

import argparse
import csv
import sys
import warnings
from pathlib import Path

import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from mmengine.config import DictAction

from mmmobilemamba.utils import config_argument, read_config
from mmmobilemamba.utils.fonts import FontError, choose_fonts, one_line
from mmmobilemamba.utils.test_results import (
    LabelMaps,
    ResultsError,
    build_test_data,
    check_codebase,
    ignored_labels,
    label_map_reader,
    samples_of,
)

MOST_NUMBERS = 30  # with more classes, cells are drawn without numbers
SIDES = (6, 40)  # inches, smallest and largest side of the figure
DPI = 100


class MatrixError(ResultsError):
    """The matrix cannot be computed; the message says why and what to do."""


def count(truth, predicted, number, ignored):
    """Count the pixels of each pair of classes.

    Args:
        truth (ndarray): Integer labels, any shape.
        predicted (ndarray): Predicted labels, same shape.
        number (int): Number of classes.
        ignored (int | Sequence[int]): Labels in ``truth`` to ignore.

    Returns:
        ndarray: int64 (number, number); rows are true classes, columns predicted ones.

    Raises:
        MatrixError: If shapes differ, or a label is neither a class nor ignored.
    """
    if truth.shape != predicted.shape:
        raise MatrixError(f'ground truth has {truth.shape} pixels, the prediction {predicted.shape}')
    counted = ~np.isin(truth, ignored)
    pairs = [labels[counted].astype(np.int64) for labels in (truth, predicted)]
    for name, labels in zip(('ground truth', 'the prediction'), pairs):
        if labels.size and not 0 <= labels.min() <= labels.max() < number:
            strange = np.setdiff1d(labels, np.arange(number))
            raise MatrixError(
                f'{name} has labels {labels.min()} to {labels.max()}, the config {number} classes, 0 to '
                f'{number - 1}: {", ".join(map(str, strange[:10]))} is none of them, nor ignored'
            )
    return np.bincount(number * pairs[0] + pairs[1], minlength=number**2).reshape(number, number)


def gather(config, path):
    """Sum the matrix over the test dataset of a config.

    Args:
        config (Config): A config of mmseg.
        path (Path): Output of ``mim test ... --out``, or a file of DumpResults.

    Returns:
        tuple[ndarray, Sequence[str]]: The matrix, see :func:`count`, and the class names.

    Raises:
        ResultsError: If data or predictions are missing or do not match.
    """
    samples = samples_of(build_test_data(config, check_codebase(config, ['mmseg'])))
    classes = samples[0].dataset.metainfo.get('classes')
    if not classes:
        raise MatrixError("the test data have no names of classes: give metainfo=dict(classes=('a', 'b'))")
    maps = LabelMaps(path, config, samples)
    if maps.absent:
        raise MatrixError(
            f'{len(maps.absent)} of {len(samples)} images have no prediction in {path}, such as '
            f'{maps.absent[0]}; `mim test ... --out {path}` writes them'
        )
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    for index, sample in enumerate(maps.samples):
        load, ignored = label_map_reader(sample.dataset), ignored_labels(config, sample.dataset)
        if load is None:
            raise MatrixError(
                f'the test pipeline of {type(sample.dataset).__name__} does not load annotations'
            )
        truth = load(dict(sample.info))['gt_seg_map']
        try:
            matrix += count(truth, maps.read(index), len(classes), ignored)
        except MatrixError as error:
            truth_path = sample.info.get('seg_map_path')
            raise MatrixError(f'{maps.name(index)}: {error} (ground truth: {truth_path})') from None
    return matrix, classes


def per_cent(matrix):
    """Each row in per cent of its sum; NaN for a class without pixels."""
    with np.errstate(invalid='ignore'):
        return 100 * matrix / matrix.sum(axis=1, keepdims=True)


def table(matrix, classes):
    """Lines of text with pixels, share predicted correctly and worst confusion, per class and in total."""
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
    """Write class names, numbers of pixels and percentages, which are empty for a class without pixels."""
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(['true class', 'pixels', *classes])
        for name, counts, shares in zip(classes, matrix, per_cent(matrix)):
            cells = ['' if np.isnan(share) else f'{share:.2f}' for share in shares]
            writer.writerow([name, counts.sum(), *cells])


def draw(path, matrix, classes, font=None):
    """Draw the matrix, with at most ``SIDES[1] * DPI`` pixels on a side.

    Args:
        path (Path): File to write.
        matrix (ndarray): See :func:`count`.
        classes (Sequence[str]): Class names.
        font (Path, optional): Font file for the names.

    Returns:
        str | None: A warning if characters are missing from the fonts.

    Raises:
        FontError: If the font cannot be opened.
    """
    shares, number = per_cent(matrix), len(classes)
    fonts, warning = choose_fonts(classes, font, default=font_manager.findfont('DejaVu Sans'))
    for file in fonts:
        font_manager.fontManager.addfont(file)
    families = [font_manager.get_font(file).family_name for file in fonts]
    names = [one_line(name) for name in classes]
    side = float(np.clip(0.35 * number + 3, *SIDES))
    figure = Figure(figsize=(side, side), dpi=DPI, layout='constrained')
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap='Blues', vmin=0, vmax=100)
    style = dict(fontfamily=families, fontsize=8, parse_math=False)  # names may contain dollar signs
    axes.set_xticks(range(number), names, rotation=90, **style)
    axes.set_yticks(range(number), names, **style)
    axes.set(xlabel='predicted class', ylabel='true class', title='Per cent of the pixels of the true class')
    if number <= MOST_NUMBERS:
        for row, column in np.argwhere(~np.isnan(shares)):
            share = shares[row, column]
            color = 'white' if share > 50 else 'black'
            axes.text(column, row, f'{share:.1f}', ha='center', va='center', fontsize=7, color=color)
    figure.colorbar(image, ax=axes, shrink=0.8)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph .* missing')  # one per character; ours covers all
        figure.savefig(path)
    return warning


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        'config', type=config_argument, help='mmseg config with the test dataset of the predictions'
    )
    parser.add_argument('predictions', type=Path, help='folder written by --out, or file of DumpResults')
    parser.add_argument('out', type=Path, help='folder for the matrix')
    parser.add_argument('--font', type=Path, help='font file (TrueType or OpenType) for class names')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='changes to the config')
    args = parser.parse_args(argv)
    config = read_config(args.config, args.cfg_options)
    try:
        matrix, classes = gather(config, args.predictions)
        args.out.mkdir(parents=True, exist_ok=True)
        write_csv(args.out / 'confusion_matrix.csv', matrix, classes)
        warning = draw(args.out / 'confusion_matrix.png', matrix, classes, args.font)
    except (ResultsError, FontError, OSError) as error:
        sys.exit(f'confusion_matrix_seg.py: error: {error}')
    if warning:
        print(f'confusion_matrix_seg.py: warning: {warning}', file=sys.stderr)
    print('\n'.join(table(matrix, classes)))
    print(f'Matrix: {args.out.resolve() / "confusion_matrix.csv"} and .png')


if __name__ == '__main__':
    main()
