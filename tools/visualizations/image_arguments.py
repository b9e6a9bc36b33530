"""Arguments for images, devices and figures, shared by ``erf.py`` and ``look.py``."""

from functools import partial

from mmengine.config import DictAction
from mmengine.device import get_device

from mmmobilemamba.analysis.images import find_pictures, random_image, read_picture


def add_arguments(parser, number, size):
    """Add the arguments to a parser.

    Args:
        parser (ArgumentParser): Gets the arguments.
        number (int): Default number of images.
        size (int): Default side of the images, px.
    """
    add = parser.add_argument
    add('--images', nargs='+', metavar='PATH', help='pictures and folders of pictures (default: white noise)')
    add('--number', type=int, default=number, help='maximum number of images (default: %(default)s)')
    text = 'in px, to which pictures are cropped and resized, or one side for both (default: %(default)s)'
    add('--size', type=int, nargs='+', default=[size], metavar='SIDE', help=f'height and width {text}')
    add('--seed', type=int, default=0, help='for random weights and images (default: %(default)s)')
    add('--device', default=get_device(), help='default: %(default)s')
    add('--dpi', type=int, default=110, help='resolution of the figures (default: %(default)s)')
    add('--cfg-options', nargs='+', action=DictAction, default={}, help='changes to all configs')


def check_arguments(parser, args):
    """Exit with an error if numbers are out of range."""
    if len(args.size) > 2 or min(args.size) < 1:
        parser.error('--size takes one side or HEIGHT WIDTH, of 1 px or more')
    if args.number < 1:
        parser.error('--number must be 1 or more')


def check_out(parser, path, *suffixes):
    """Exit with an error, before any work, if a file cannot be written."""
    if path.suffix not in suffixes:
        parser.error(f'{path.name} must end in {", ".join(suffixes)}')
    if not path.parent.is_dir():
        parser.error(f'there is no folder {path.parent}; make it first')


def size_of(args):
    """Height and width of the images, px (tuple[int, int])."""
    return args.size[0], args.size[-1]


def load_images(args, channels):
    """Functions that each return an image, (1, channels, H, W) in 0..1, so that few are in memory at once.

    Raises:
        AnalysisError: If there are no pictures, or a network needs another kind of images.
    """
    size = size_of(args)
    if not args.images:
        return [partial(random_image, size, channels, args.seed + index) for index in range(args.number)]
    return [partial(read_picture, path, size, channels) for path in find_pictures(args.images, args.number)]
