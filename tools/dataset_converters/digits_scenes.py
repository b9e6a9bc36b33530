"""Generate a small, reproducible dataset of handwritten digits in front of photos, offline.

``python tools/dataset_converters/digits_scenes.py data/digits_scenes`` places the scans of
``sklearn.datasets.load_digits`` on crops of ``sklearn.datasets.load_sample_images`` and writes
three views of the same scenes::

    OUT/coco/{train,val}/000001.png                     pictures, RGB
    OUT/coco/annotations/instances_{train,val}.json     boxes and masks, categories 1..10
    OUT/ade/images/{training,validation}/000001.png     hard links to (or copies of) the pictures
    OUT/ade/annotations/{training,validation}/000001.png  0 rim, 1 background, 2..11 digits 0..9
    OUT/imagenet/{train,val}/{zero,...,nine}/000001_01.png  square crops of the single digits
    OUT/manifest.json                                   arguments, split of the scans, files

The same arguments produce the same bytes, and the first N scenes do not depend on the counts.
"""

import argparse
import errno
import json
import os
import shutil
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

try:
    import numpy as np
    import pycocotools.mask
    from PIL import Image, ImageFilter
    from sklearn.datasets import load_digits, load_sample_images
    from tqdm import tqdm
except ImportError as missing:
    raise SystemExit(
        f'digits_scenes.py: error: {missing}. It needs numpy, Pillow, pycocotools, scikit-learn and tqdm: '
        'python -m pip install numpy Pillow pycocotools scikit-learn tqdm'
    ) from None

MADE_BY = 'digits_scenes'
VERSION = 1  # increase it with every change of the output, to tell older folders apart
DESCRIPTION = 'Digits scenes: handwritten digits in front of photos, with boxes and masks'
MANIFEST = 'manifest.json'
VIEWS = ('coco', 'ade', 'imagenet')
CLASSES = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
ADE_SPLITS = {'train': 'training', 'val': 'validation'}
CATEGORIES = [{'id': i, 'name': name, 'supercategory': 'digit'} for i, name in enumerate(CLASSES, 1)]
# No creation time: the same arguments must produce the same bytes.
INFO = {'description': DESCRIPTION, 'version': str(VERSION), 'year': 2026, 'date_created': '2026/01/01'}
INFO.update(contributor='mmmobilemamba', url='https://archive.ics.uci.edu/dataset/80')
CC_BY = 'https://creativecommons.org/licenses/by'
LICENSES = [
    {'id': 1, 'name': 'CC BY 4.0 (digits: E. Alpaydin, C. Kaynak)', 'url': f'{CC_BY}/4.0/'},
    {'id': 2, 'name': 'CC BY 2.0 (photos: danielbuechele, vultilion)', 'url': f'{CC_BY}/2.0/'},
]
OPTIONS = {  # default, lowest, highest, meaning
    'seed': (0, 0, 2**32 - 1, 'random seed'),
    'train': (6000, 1, 999999, 'training scenes'),
    'val': (200, 1, 999999, 'validation scenes'),
    'size': (160, 64, 1024, 'side of the pictures in px'),
}

VAL_SHARE = 0.2  # of the scans of every class
PHOTO_CUT = 0.6  # of a photo's width: training crops are left of it, validation crops right of it
REFERENCE_SIZE = 160  # px, picture size for the lengths below
DIGIT_SIDES = (20, 56)  # px, a scan's side
MAX_ANGLE = 15  # degrees
MIN_VISIBLE = 0.7  # of a digit's own mask
MIN_CONTRAST = 45  # luminance steps of 255 between a digit and its surroundings
MASK_ALPHA = 0.5  # pixels with at least this opacity belong to the digit
RIM_ALPHA = 0.08  # pixels from this opacity up to MASK_ALPHA are neither digit nor background
TRIES_PER_DIGIT, TRIES_PER_SCENE = 40, 20
LUMINANCE = np.array([0.299, 0.587, 0.114])


class DatasetError(RuntimeError):
    """The dataset cannot be generated; the message says why and what to do."""


class Digit(NamedTuple):
    """Placement of one digit: ``side``, ``top`` and ``left`` in px, ``angle`` in degrees."""

    scan: int
    label: int
    side: int
    angle: float
    top: int
    left: int
    area: int  # px, of the whole mask, occluded parts included


class Scene(NamedTuple):
    """One picture and its digits."""

    image: np.ndarray  # uint8, (size, size, 3), RGB
    owner: np.ndarray  # uint8, (size, size): 0 without a digit, k in the visible part of the k-th digit
    rim: np.ndarray  # bool, (size, size): semi-transparent pixels around digits
    digits: list  # of Digit, from back to front


class Sources(NamedTuple):
    """Scans and photos for the scenes of one split."""

    scans: np.ndarray  # uint8, (1797, 8, 8), 0..16; of both splits
    photos: list  # of uint8 arrays, (427, W, 3): this split's part of each photo
    choices: list  # of int arrays: indices of this split's scans, per class


def make_rng(seed, *key):
    """Return a generator that depends only on ``seed`` and ``key``, not on earlier draws."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def split_scans(labels, seed):
    """Split scans by ``labels``, int (N,): sorted indices per class, {'train': ..., 'val': ...}."""
    rng = make_rng(seed, 2)  # scenes use (0, index) and (1, index)
    parts = {'train': [], 'val': []}
    for label in range(len(CLASSES)):
        indices = rng.permutation(np.flatnonzero(labels == label))
        count = round(VAL_SHARE * len(indices))
        parts['val'].append(np.sort(indices[:count]))
        parts['train'].append(np.sort(indices[count:]))
    return parts


def load_sources(seed):
    """Load and split scikit-learn's scans and photos: {'train': Sources, 'val': Sources}."""
    digits, photos = load_digits(), load_sample_images().images
    scans, choices = digits.images.astype(np.uint8), split_scans(digits.target, seed)
    parts = [np.split(photo, [round(PHOTO_CUT * photo.shape[1])], axis=1) for photo in photos]
    left, right = zip(*parts)
    return {'train': Sources(scans, left, choices['train']), 'val': Sources(scans, right, choices['val'])}


def make_noise(rng, size):
    """Return float noise of several octaves, (size, size, 3), roughly in -1..1."""
    noise = np.zeros((size, size, 3))
    for octave in range(5):
        cells = rng.integers(0, 256, (4 * 2**octave, 4 * 2**octave, 3), dtype=np.uint8)
        layer = Image.fromarray(cells).resize((size, size), Image.Resampling.BICUBIC)
        noise += (np.asarray(layer) / 127.5 - 1) * 0.6**octave
    return noise


def make_background(rng, photos, size):
    """Mix a blurred photo crop with noise into a low-contrast float (size, size, 3), 0..255."""
    photo = photos[rng.integers(len(photos))]
    side = int(rng.integers(80, min(photo.shape[:2]) + 1))
    top, left = (rng.integers(length - side + 1) for length in photo.shape[:2])
    crop = Image.fromarray(np.ascontiguousarray(photo[top : top + side, left : left + side]))
    crop = crop.resize((size, size), Image.Resampling.BICUBIC)
    crop = crop.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.5) * size / REFERENCE_SIZE))
    texture = np.rot90(np.asarray(crop, dtype=float), rng.integers(4))
    texture = texture[..., rng.permutation(3)]  # more colours than in the two photos
    if rng.random() < 0.5:
        texture = texture[:, ::-1]
    noise = make_noise(rng, size)
    share = rng.uniform(0.5, 0.95)
    texture = share * (texture - texture.mean()) / (texture.std() + 1)
    texture = texture + (1 - share) * (noise - noise.mean()) / noise.std()
    texture = 2 * np.tanh(texture / texture.std() / 2)  # limits highlights and shadows
    base = rng.uniform(55, 200) + rng.uniform(-25, 25, 3)
    return np.clip(base + rng.uniform(14, 28) * texture, 0, 255)


def render_alpha(scan, side, angle):
    """Resize a scan, uint8 (8, 8), 0..16, to ``side`` px and rotate it by ``angle`` degrees.

    Returns its opacity: float, (h, w), 0..1, cropped to the non-empty rows and columns.
    """
    outer = round(side * 10 / 8)  # includes a border of zeros, to avoid hard edges
    padded = np.pad(scan.astype(float) * (255 / 16), 1).round().astype(np.uint8)
    picture = Image.fromarray(padded).resize((outer, outer), Image.Resampling.BICUBIC)
    picture = picture.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    ramp = np.clip((np.asarray(picture) / 255 - 0.3) / 0.4, 0, 1)
    alpha = ramp * ramp * (3 - 2 * ramp)
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    return alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def choose_tint(rng, surroundings):
    """Return a random colour, float (3,), that contrasts with its surroundings, float (N, 3), 0..255.

    Its luminance differs by at least ``MIN_CONTRAST`` from 95 % of them. None if no tried colour does.
    """
    luminance = surroundings @ LUMINANCE
    for tint in rng.uniform(0, 255, (16, 3)):
        if np.percentile(np.abs(luminance - tint @ LUMINANCE), 5) >= MIN_CONTRAST:
            return tint
    return None


def place_digit(rng, sources, canvas, owner, rim, digits):
    """Try once to draw one more digit on ``canvas``, float (size, size, 3), 0..255.

    Returns a :class:`Digit` and modifies the arrays in place (see :class:`Scene`). If a digit would be
    occluded too much or have too little contrast, returns None and modifies nothing.
    """
    size = len(owner)
    label = int(rng.integers(len(CLASSES)))
    scan = int(rng.choice(sources.choices[label]))
    side = round(rng.uniform(*DIGIT_SIDES) * size / REFERENCE_SIZE)
    angle = float(rng.uniform(-MAX_ANGLE, MAX_ANGLE))
    alpha = render_alpha(sources.scans[scan], side, angle)
    top, left = (int(rng.integers(size - length + 1)) for length in alpha.shape)
    window = np.s_[top : top + alpha.shape[0], left : left + alpha.shape[1]]
    mask = alpha >= MASK_ALPHA
    hidden = np.bincount(owner[window][mask], minlength=len(digits) + 1)
    visible = np.bincount(owner.ravel(), minlength=len(digits) + 1) - hidden
    if any(count < MIN_VISIBLE * digit.area for count, digit in zip(visible[1:], digits)):
        return None
    tint = choose_tint(rng, canvas[window].reshape(-1, 3))
    if tint is None:
        return None
    canvas[window] += alpha[..., None] * (tint - canvas[window])
    owner[window][mask] = len(digits) + 1
    rim[window] |= (alpha >= RIM_ALPHA) & ~mask
    return Digit(scan, label, side, angle, top, left, int(mask.sum()))


def make_scene(rng, sources, size, digits_range):
    """Return a :class:`Scene` of ``size`` px.

    Digits that find no place are omitted, but the scene has at least ``digits_range[0]``.
    """
    for _ in range(TRIES_PER_SCENE):
        canvas = make_background(rng, sources.photos, size)
        owner, rim, digits = np.zeros((size, size), np.uint8), np.zeros((size, size), bool), []
        for _ in range(rng.integers(digits_range[0], digits_range[1] + 1)):
            tries = (place_digit(rng, sources, canvas, owner, rim, digits) for _ in range(TRIES_PER_DIGIT))
            digit = next((found for found in tries if found is not None), None)
            if digit is not None:
                digits.append(digit)
        if len(digits) >= digits_range[0]:
            canvas += rng.normal(0, 3, canvas.shape)  # camera noise
            return Scene(np.clip(canvas.round(), 0, 255).astype(np.uint8), owner, rim, digits)
    raise DatasetError(
        f'a scene has no room for {digits_range[0]} digits that stay {MIN_VISIBLE:.0%} visible '
        f'(tried {TRIES_PER_SCENE} times). Ask for fewer, like --digits 3 8.'
    )


def make_annotations(scene, image_id, first_id):
    """Return COCO annotations (list[dict]) for the visible parts of a scene's digits."""
    annotations = []
    for number, digit in enumerate(scene.digits, 1):
        mask = scene.owner == number
        code = pycocotools.mask.encode(np.asfortranarray(mask, np.uint8))
        box, area = [int(value) for value in pycocotools.mask.toBbox(code)], int(mask.sum())
        ids = {'id': first_id + number - 1, 'image_id': image_id, 'category_id': digit.label + 1}
        code = {'size': list(mask.shape), 'counts': code['counts'].decode('ascii')}
        shape = {'bbox': box, 'area': area, 'segmentation': code, 'iscrowd': 0}
        origin = {'scan': digit.scan, 'visible_fraction': round(area / digit.area, 4)}
        annotations.append({**ids, **shape, **origin})
    return annotations


def make_semantic_map(scene):
    """Return uint8, (size, size): 0 rim, 1 background, 2..11 visible parts of the digits 0..9."""
    colours = np.array([1] + [digit.label + 2 for digit in scene.digits], np.uint8)
    labels = colours[scene.owner]
    labels[scene.rim & (scene.owner == 0)] = 0
    return labels


def square_crop(image, box):
    """Crop a square around ``box`` ([x, y, width, height] in px) from ``image``, uint8 (size, size, 3).

    The margin is a tenth of the longer side. A square that would extend beyond the picture is shifted.
    """
    x, y, width, height = box
    side = min(round(1.2 * max(width, height)), len(image))
    left = min(max(x + (width - side) // 2, 0), image.shape[1] - side)
    top = min(max(y + (height - side) // 2, 0), image.shape[0] - side)
    return image[top : top + side, left : left + side]


def save_png(path, array):
    """Write a uint8 array, (H, W) or (H, W, 3), losslessly."""
    Image.fromarray(np.ascontiguousarray(array)).save(path, compress_level=6)


def write_scene(root, split, name, scene, annotations):
    """Write picture, semantic map and crops of one scene below ``root``."""
    picture, ade_picture = root / 'coco' / split / name, root / 'ade' / 'images' / ADE_SPLITS[split] / name
    save_png(picture, scene.image)
    try:
        os.link(picture, ade_picture)
    except OSError:  # no hard links on this file system
        shutil.copyfile(picture, ade_picture)
    save_png(root / 'ade' / 'annotations' / ADE_SPLITS[split] / name, make_semantic_map(scene))
    for number, annotation in enumerate(annotations, 1):
        folder = root / 'imagenet' / split / CLASSES[annotation['category_id'] - 1]
        save_png(folder / f'{name[:-4]}_{number:02d}.png', square_crop(scene.image, annotation['bbox']))


def write_split(root, split, arguments, sources):
    """Write all scenes of one split and their COCO file below ``root``."""
    images, annotations, size = [], [], arguments['size']
    for index in tqdm(range(arguments[split]), desc=f'{split} scenes', unit='scene'):
        rng = make_rng(arguments['seed'], list(ADE_SPLITS).index(split), index)
        scene = make_scene(rng, sources, size, arguments['digits'])
        name = f'{index + 1:06d}.png'
        found = make_annotations(scene, index + 1, len(annotations) + 1)
        write_scene(root, split, name, scene, found)
        image = {'id': index + 1, 'file_name': name, 'width': size, 'height': size}
        images.append({**image, 'license': 1})
        annotations.extend(found)
    head = {'info': INFO, 'licenses': LICENSES, 'categories': CATEGORIES}
    content = {**head, 'images': images, 'annotations': annotations}
    write_json(root / 'coco' / 'annotations' / f'instances_{split}.json', content)


def write_json(path, content):
    """Write ``content`` as JSON, with the same bytes on every system."""
    path.write_bytes((json.dumps(content) + '\n').encode('ascii'))


def read_manifest(folder):
    """Return the manifest (dict) of this script in ``folder``, or None if there is no valid one."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding='utf-8'))
    except (FileNotFoundError, ValueError):
        return None
    keys = {'made_by', 'version', 'complete', 'arguments', 'files'}
    valid = isinstance(manifest, dict) and keys <= {*manifest} and manifest['made_by'] == MADE_BY
    return manifest if valid else None


def write_manifest(root, arguments, complete, sources=None):
    """Write the arguments, the scans of each split, and the CRC-32 of all files so far."""
    scans = {split: np.concatenate(source.choices).tolist() for split, source in (sources or {}).items()}
    paths = sorted(path for view in VIEWS for path in (root / view).rglob('*') if path.is_file())
    files = {path.relative_to(root).as_posix(): zlib.crc32(path.read_bytes()) for path in paths}
    manifest = {'made_by': MADE_BY, 'version': VERSION, 'complete': complete, 'arguments': arguments}
    write_json(root / MANIFEST, {**manifest, 'scans': scans, 'files': files})


def find_damage(root, manifest):
    """Return missing and changed files (list[str]); empty if the dataset is complete."""
    if not manifest['complete']:
        return [f'{MANIFEST} says that it was never finished']
    states = {name: (root / name).is_file() for name in manifest['files']}
    damage = [f'{name} (missing)' for name, there in states.items() if not there]
    sums = {name: zlib.crc32((root / name).read_bytes()) for name, there in states.items() if there}
    return damage + [f'{name} (changed)' for name, value in sums.items() if value != manifest['files'][name]]


def is_ours(folder):
    """Whether ``folder`` contains a dataset of this script, complete or not.

    The names of the views are not sufficient: ``data/coco`` and ``data/ade`` usually hold the real datasets.
    """
    classes, files = folder / 'imagenet' / 'train', (folder / 'coco' / 'annotations').glob('instances_*.json')
    return (
        read_manifest(folder) is not None
        or (classes.is_dir() and {path.name for path in classes.iterdir()} == set(CLASSES))
        or any(DESCRIPTION.encode() in path.read_bytes()[:1000] for path in files)
    )


def describe(arguments, version):
    """Return the arguments as on the command line, with the version of the dataset."""
    options = [f'--{name} {arguments.get(name)}' for name in OPTIONS]
    return ' '.join([*options, '--digits', *map(str, arguments['digits'])]) + f' (version {version})'


def check_existing(out, arguments, overwrite):
    """Return True if ``out`` already has the requested dataset, False if it must be generated.

    Raises:
        DatasetError: If ``out`` has other content that must not be replaced.
    """
    if out.exists() and not out.is_dir():
        raise DatasetError(f'{out} is a file. OUT must be a new or empty folder: use another name.')
    held = sorted(path.name for path in out.iterdir()) if out.exists() else []
    foreign = [name for name in held if name not in (*VIEWS, MANIFEST)]
    if held and (not is_ours(out) or (overwrite and foreign)):
        raise DatasetError(
            f'{out} contains files that this script did not write ({", ".join((foreign or held)[:5])}), so '
            'it is not changed, even with --overwrite. Use a new or empty folder, or move them away yourself.'
        )
    if overwrite or not held:
        return False
    manifest = read_manifest(out)
    damage = [f'{MANIFEST} (missing or not valid)'] if manifest is None else find_damage(out, manifest)
    if damage:
        raise DatasetError(
            f'{out} is not a complete dataset, {len(damage)} fault(s): {", ".join(damage[:5])}. '
            'Generate it again with --overwrite, or use another folder.'
        )
    there, asked = describe(manifest['arguments'], manifest['version']), describe(arguments, VERSION)
    if there != asked:
        raise DatasetError(
            f'{out} already holds another dataset.\n  there: {there}\n  asked: {asked}\n'
            'Use another folder, or --overwrite to replace it (`make data OVERWRITE=--overwrite`).'
        )
    return True


def clear_partial(partial):
    """Delete the folder of an interrupted run, with a message; any other folder is kept.

    Raises:
        DatasetError: If something else is there.
    """
    if not partial.exists():
        return
    if not partial.is_dir() or (any(partial.iterdir()) and not is_ours(partial)):
        raise DatasetError(
            f'{partial} is in the way and was not written by this script. Move it, or use another OUT.'
        )
    print(f'{partial} is left from an interrupted run: starting over')
    shutil.rmtree(partial)


def make_folders(root):
    """Create the folders of all views below ``root``."""
    for split, ade_split in ADE_SPLITS.items():
        folders = [f'coco/{split}', f'ade/images/{ade_split}', f'ade/annotations/{ade_split}']
        for folder in ['coco/annotations', *folders, *(f'imagenet/{split}/{name}' for name in CLASSES)]:
            (root / folder).mkdir(parents=True, exist_ok=True)


def check_disk(folder, arguments):
    """Raise ``DatasetError`` if the disk of ``folder`` has too little space for the dataset."""
    size, most = arguments['size'], arguments['digits'][1]
    crop = (1.2 * DIGIT_SIDES[1] * size / REFERENCE_SIZE) ** 2 / 2  # px, of a digit of medium size
    scene = 3 * (size**2 + most * crop) + 4096 * (most + 3)  # bytes; noise hardly compresses
    needed = scene * (arguments['train'] + arguments['val']) / 2**20
    free = shutil.disk_usage(folder).free / 2**20
    if free < needed:
        raise DatasetError(
            f'the disk of {folder} has {free:.0f} MiB free; the dataset needs up to {needed:.0f} MiB. '
            'Free some room, use another disk, or lower --train, --val, --size or --digits.'
        )


def make_dataset(out, arguments, overwrite):
    """Generate the dataset in ``out`` (Path) unless it exists."""
    if check_existing(out, arguments, overwrite):
        print(f'{out} is complete and was generated with the same arguments: nothing to do')
        return
    partial = out.with_name(out.name + '.partial')
    clear_partial(partial)
    try:
        partial.mkdir(parents=True)
        check_disk(partial, arguments)
        write_manifest(partial, arguments, False)
        make_folders(partial)
        sources = load_sources(arguments['seed'])
        for split in ADE_SPLITS:
            write_split(partial, split, arguments, sources[split])
        write_manifest(partial, arguments, True, sources)
    except (OSError, DatasetError):
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if out.exists():
        for view in VIEWS:  # before the manifest, so that is_ours() still holds after an interruption
            shutil.rmtree(out / view, ignore_errors=True)
        shutil.rmtree(out)
    partial.rename(out)
    print(f'{out}: {arguments["train"]} training and {arguments["val"]} validation scenes')


def parse_args(argv):
    """Parse and check the command line (argparse.Namespace)."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('out', type=Path, metavar='OUT', help='a new or empty folder')
    for name, (default, low, high, meaning) in OPTIONS.items():
        text = f'{meaning}, {low} to {high} (default {default})'
        parser.add_argument(f'--{name}', type=int, default=default, help=text)
    text = 'minimum and maximum number of digits per scene, 1 to 20 (default 3 8)'
    parser.add_argument('--digits', type=int, nargs=2, default=[3, 8], metavar=('MIN', 'MAX'), help=text)
    parser.add_argument('--overwrite', action='store_true', help='replace a dataset of this script')
    args = parser.parse_args(argv)
    for name, (_, low, high, _) in OPTIONS.items():
        if not low <= getattr(args, name) <= high:
            parser.error(f'--{name} is {getattr(args, name)}; allowed are whole numbers from {low} to {high}')
    if not 1 <= args.digits[0] <= args.digits[1] <= 20:
        parser.error(
            f'--digits is {args.digits[0]} {args.digits[1]}; allowed are two whole numbers from 1 to 20, '
            'the smaller one first, like --digits 3 8'
        )
    return args


def main(argv=None):
    """Run the command line; on failure, print a message to stderr and exit with status 1."""
    args = parse_args(argv)
    arguments = {name: getattr(args, name) for name in (*OPTIONS, 'digits')}
    out = Path(os.path.realpath(args.out))
    try:
        return make_dataset(out, arguments, args.overwrite)
    except DatasetError as error:
        message = str(error)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, getattr(errno, 'EDQUOT', None))
        message = f'{error.filename or out}: {error.strerror or error}. '
        message += 'Free some space or use another disk.' if full else 'Check that OUT is writable.'
    except KeyboardInterrupt:
        message = 'interrupted. Running the command again starts over.'
    sys.exit(f'digits_scenes.py: error: {message}')


if __name__ == '__main__':
    main()
