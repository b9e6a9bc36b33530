"""Draw effective receptive fields of networks side by side, and print their sizes.

    python tools/visualizations/erf.py NETWORK [NETWORK ...] [OPTIONS]
    python tools/visualizations/erf.py b1=mobilemamba://b1 timm/resnet50=pretrained --images IMAGES
    mim run mmmobilemamba erf b1 --stages 0 1 2 --without scan wavelet,local

NETWORK is NAME, with random weights, or NAME=CHECKPOINT. NAME is an arch, the name of a recipe, the path of a
config of mmpretrain, mmdet or mmseg (PACKAGE::PATH for one shipped with a package), or timm/NAME. CHECKPOINT
is a file or mobilemamba://NAME; for timm models, pretrained selects timm's own weights.

The field is the gradient with respect to the image of the sum of positive values at the centre of a stage's
map: absolute values, summed over channels, averaged over images. The table lists the side lengths of centred
squares that contain 20, 30, 50 and 99 % of it. Without --images, the images are white noise. Sources:
https://arxiv.org/abs/1701.04128, https://arxiv.org/abs/2203.06717.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from image_arguments import add_arguments, check_arguments, check_out, load_images, size_of
from mmengine.utils import ProgressBar

from mmmobilemamba.analysis import (
    BRANCHES,
    SHARES,
    AnalysisError,
    effective_receptive_fields,
    open_residuals,
    square_sides,
    without,
)
from mmmobilemamba.analysis.branches import branch_modules
from mmmobilemamba.analysis.figures import erf_figure
from mmmobilemamba.analysis.networks import build_network, source_argument
from mmmobilemamba.models.checkpoint import CheckpointError

FIGURES = ('.png', '.jpg', '.pdf', '.svg')


class Panel:
    """One field of the figure: a stage of a network, optionally without some branches.

    Args:
        network (Network): On its device.
        stage (int): See ``Network.forward``.
        branches (tuple[str]): Branches to remove.
    """

    def __init__(self, network, stage, branches=()):
        self.network, self.stage, self.branches = network, stage, branches
        self.title = 'last stage' if stage == -1 else f'stage {stage}'
        self.size = None  # of the map

    def __call__(self, images):
        """(N, C, H, W) -> the map of the stage."""
        with without(self.network, *self.branches):
            values = self.network(images.to(self.network.mean), self.stage)
        self.size = tuple(values.shape[2:])
        return values


def branches_argument(text):
    """Argument ``type`` for a comma-separated list of branches: tuple[str]."""
    names = tuple(text.split(','))
    for name in names:
        if name not in BRANCHES:
            raise argparse.ArgumentTypeError(
                f'there is no branch {name!r}; choose from {", ".join(BRANCHES)}'
            )
    return names


def make_panels(args):
    """Create all panels, by row (dict[str, list[Panel]]).

    Raises:
        AnalysisError, CheckpointError, OSError: If a network cannot be built or lacks a branch.
    """
    rows = defaultdict(list)
    for source in args.networks:
        network = build_network(source, args.cfg_options, args.seed).to(args.device)
        if args.open_residuals and source.checkpoint is None:
            open_residuals(network)
        ours = bool(branch_modules(network, BRANCHES[0]))
        for branches in ((), *(args.without if ours else ())):
            name = source.label + (f', without {" and ".join(branches)}' if branches else '')
            if name in rows:
                raise AnalysisError(f'The network {source.label} is given twice: give it once.')
            rows[name] = [Panel(network, stage, branches) for stage in dict.fromkeys(args.stages)]
    if args.without and not any('without' in name for name in rows):
        raise AnalysisError('--without needs a MobileMamba, and none of the networks is one: omit it.')
    if len({panel.network.channels for row in rows.values() for panel in row}) > 1:
        raise AnalysisError(
            'The networks take images with different numbers of channels: draw them separately.'
        )
    return rows


def track(images):
    """Yield the images of a list, with a progress bar on stderr from the second image on."""
    bar = ProgressBar(len(images), start=False, file=sys.stderr)
    for index, image in enumerate(images):
        yield image()
        if index == 0:  # an unsupported network fails first, without a progress bar
            bar.start()
        bar.update()
    print(file=sys.stderr)


def titled(rows, fields, size):
    """Fields by row and by a title with the stride (dict[str, dict[str, ndarray]]).

    Args:
        rows (dict[str, list[Panel]]): From :func:`make_panels`.
        fields (dict[str, ndarray]): (H, W), by row and panel title.
        size (tuple[int, int]): Height and width of the images.
    """
    return {
        name: {
            f'{panel.title}, stride {round(size[1] / panel.size[1])}': fields[f'{name}, {panel.title}']
            for panel in panels
        }
        for name, panels in rows.items()
    }


def table(named):
    """Lines of text with the side lengths of the squares of each field."""
    heads = [f'{100 * share:g} %' for share in SHARES]
    rows = [('network', 'map', *heads)]
    for name, by_title in named.items():
        for title, field in by_title.items():
            rows.append((name, title, *map(str, square_sides(field))))
    widths = [max(len(row[index]) for row in rows) for index in range(2)]
    return [
        f'{name:<{widths[0]}}  {title:<{widths[1]}}' + ''.join(f'{side:>7}' for side in sides)
        for name, title, *sides in rows
    ]


def save(path, named):
    """Write the fields and the side lengths of their squares, as arrays without pickle."""
    names = [f'{name}, {title}' for name, row in named.items() for title in row]
    fields = [field for row in named.values() for field in row.values()]
    sides = [square_sides(field) for field in fields]
    np.savez_compressed(path, names=names, fields=np.stack(fields), shares=SHARES, sides=sides)


def run(args):
    """Compute, draw and print the fields.

    Raises:
        AnalysisError, CheckpointError, OSError: If a network or image cannot be used.
    """
    rows = make_panels(args)
    panels = {f'{name}, {panel.title}': panel for name, row in rows.items() for panel in row}
    images = load_images(args, next(iter(panels.values())).network.channels)
    fields = effective_receptive_fields(panels, track(images))
    named = titled(rows, fields, size_of(args))
    erf_figure(named).savefig(args.out, dpi=args.dpi)
    if args.save:
        save(args.save, named)
    what = 'pictures' if args.images else 'images of white noise'
    print(f'Sides in px of the centred squares that contain a share of the field; {len(images)} {what}')
    print('\n'.join(table(named)))
    print(f'{args.out}: the figure')


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        'networks', nargs='+', type=source_argument, metavar='NETWORK', help='NAME or NAME=CHECKPOINT'
    )
    add_arguments(parser, number=20, size=512)
    add = parser.add_argument
    add('--stages', type=int, nargs='+', default=[-1], help='from 0, or from -1 backwards (default: -1)')
    text = 'draw each MobileMamba again without these branches, such as: scan wavelet,local'
    add('--without', nargs='+', type=branches_argument, default=[], metavar='BRANCHES', help=text)
    text = 'in networks with random weights, set zero-initialised norms of residual branches to one'
    add('--open-residuals', action='store_true', help=text)
    add('--out', type=Path, default=Path('erf.png'), help='figure to write (default: %(default)s)')
    add('--save', type=Path, help='.npz file for the arrays')
    args = parser.parse_args(argv)
    check_arguments(parser, args)
    check_out(parser, args.out, *FIGURES)
    if args.save:
        check_out(parser, args.save, '.npz')
    try:
        run(args)
    except (AnalysisError, CheckpointError, OSError) as error:
        sys.exit(f'erf.py: error: {error}')


if __name__ == '__main__':
    main()
