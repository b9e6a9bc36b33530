"""Draw the feature maps, wavelet sub-bands and scan of a MobileMamba for some pictures.

    python tools/visualizations/look.py NETWORK --images PATH [PATH ...] [OPTIONS]
    mim run mmmobilemamba look b1=mobilemamba://b1 --images a.jpg b.jpg --size 512 --out pictures

NETWORK is NAME, with random weights, or NAME=CHECKPOINT. NAME is an arch, the name of a recipe, or the path
of a config of mmpretrain, mmdet or mmseg; CHECKPOINT is a file or mobilemamba://NAME. Writes three figures to
the output folder, with one row per picture:

    stages.png   feature maps of all stages; colours are their first three principal components
    bands.png    the four wavelet sub-bands of one block, before and after its convolution
    scan.png     step sizes and states of both directions of the scan in that block
"""

import argparse
import sys
from pathlib import Path

import torch
from image_arguments import add_arguments, check_arguments, load_images

from mmmobilemamba import MobileMamba
from mmmobilemamba.analysis import (
    AnalysisError,
    find_global_branch,
    global_input,
    scan_states,
    sub_bands,
)
from mmmobilemamba.analysis.figures import band_figure, scan_figure, stage_figure
from mmmobilemamba.analysis.networks import build_network, source_argument
from mmmobilemamba.models.checkpoint import CheckpointError


def stage_maps(network, images):
    """Feature maps of all stages of a Network, (N, C, H, W) each, by title (dict[str, Tensor])."""
    stages = range(len(network.backbone.stages))
    with torch.no_grad():
        maps = network.backbone.extract(network.normalise(images), stages)
    sides = [round(images.shape[3] / values.shape[3]) for values in maps]
    return {f'stage {index}, stride {side}': values for index, side, values in zip(stages, sides, maps)}


def run(args):
    """Compute and draw the figures.

    Raises:
        AnalysisError, CheckpointError, OSError: If the network or an image cannot be used.
    """
    network = build_network(args.network, args.cfg_options, args.seed).to(args.device)
    backbone = network.backbone
    if not isinstance(backbone, MobileMamba):
        raise AnalysisError(
            f'The backbone of {args.network.name} is a {type(backbone).__name__}; look.py is for MobileMamba.'
        )
    branch = find_global_branch(backbone, *args.block)
    images = torch.cat([image() for image in load_images(args, network.channels)]).to(args.device)
    x = global_input(backbone, network.normalise(images), *args.block)
    figures = {
        'stages.png': stage_figure(images, stage_maps(network, images)),
        'bands.png': band_figure(images, *sub_bands(branch, x)),
        'scan.png': scan_figure(images, *scan_states(branch.ss2d, x)),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(args.out / name, dpi=args.dpi)
        print(args.out / name)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('network', type=source_argument, metavar='NETWORK', help='NAME or NAME=CHECKPOINT')
    add_arguments(parser, number=4, size=256)
    add = parser.add_argument
    text = 'block whose sub-bands and scan are drawn, both numbers from 0 (default: 0 0)'
    add('--block', type=int, nargs=2, default=[0, 0], metavar=('STAGE', 'BLOCK'), help=text)
    add('--out', type=Path, default=Path('pictures'), help='folder for the figures (default: %(default)s)')
    args = parser.parse_args(argv)
    check_arguments(parser, args)
    try:
        run(args)
    except (AnalysisError, CheckpointError, OSError) as error:
        sys.exit(f'look.py: error: {error}')


if __name__ == '__main__':
    main()
