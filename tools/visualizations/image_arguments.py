"""What ``erf.py`` and ``look.py`` have in common: arguments for images, devices and figures."""

from functools import partial

from mmengine.config import DictAction
from mmengine.device import get_device

from mmmobilemamba.analysis.images import find_pictures, random_image, read_picture


def add_arguments(parser, number, size):
    """Add them to a parser of argparse.

    Args:
        parser (ArgumentParser): Gets more arguments.
        number (int): Default number of images.
        size (int): Default side of the images, px.
    """
    add = parser.add_argument
    add('--images', nargs='+', metavar='PATH', help='pictures, and folders of such; default: white noise')
    add('--number', type=int, default=number, help='of images at most (default: %(default)s)')
    text = 'of the images, px, to which pictures are cut and resized; one for both (default: %(default)s)'
    add('--size', type=int, nargs='+', default=[size], metavar='SIDE', help=f'height and width {text}')
    add('--seed', type=int, default=0, help='of random weights and images (default: %(default)s)')
    add('--device', default=get_device(), help='default: %(default)s')
    add('--dpi', type=int, default=110, help='of the figures (default: %(default)s)')
    add('--cfg-options', nargs='+', action=DictAction, default={}, help='changes of every config')


def check_arguments(parser, args):
    """End with an error where numbers make no sense."""
    if len(args.size) > 2 or min(args.size) < 1:
        parser.error('--size takes one side or HEIGHT WIDTH, of 1 px or more')
    if args.number < 1:
        parser.error('--number must be 1 or more')


def check_out(parser, path, *suffixes):
    """End with an error, before any work, where a file cannot be written."""
    if path.suffix not in suffixes:
        parser.error(f'{path.name} must end in {", ".join(suffixes)}')
    if not path.parent.is_dir():
        parser.error(f'there is no folder {path.parent}; make it first')


def size_of(args):
    """Height and width of the images, px (tuple[int, int])."""
    return args.size[0], args.size[-1]


def load_images(args, channels):
    """Functions that give an image each, (1, channels, H, W) from 0 to 1, so that few are in memory at once.

    Raises:
        AnalysisError: If there are no pictures, or a network takes images of another kind.
    """
    size = size_of(args)
    if not args.images:
        return [partial(random_image, size, channels, args.seed + index) for index in range(args.number)]
    return [partial(read_picture, path, size, channels) for path in find_pictures(args.images, args.number)]
