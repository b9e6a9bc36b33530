"""Files that cannot be read: findings that name them, never a traceback."""

import pickle
import re
import struct
import zlib
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from mmengine.registry import TRANSFORMS
from PIL import Image, UnidentifiedImageError

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from mmmobilemamba.check.failures import FAILURES, describe, shorten

from .twins import DATASET


class BrokenReader:
    """A step of a pipeline that fails as readers of damaged files do."""

    def __init__(self, kind):
        self.kind = kind

    def __call__(self, results):
        sample_path = results['img_path']
        if self.kind == 'cv2':
            cv2.resize(np.zeros((0, 0), np.uint8), (2, 2))
        if self.kind == 'pickle':
            pickle.loads(b'no pickle')
        if self.kind == 'EOF':
            pickle.loads(b'')
        if self.kind == 'zlib':
            zlib.decompress(b'nothing')
        if self.kind == 'struct':
            struct.unpack('<q', b'')
        raise UnidentifiedImageError(f'cannot identify image file, but {len(sample_path)} characters')


TRANSFORMS.register_module(module=BrokenReader, force=True)


@pytest.mark.parametrize('kind', ['cv2', 'pickle', 'EOF', 'zlib', 'struct', 'PIL'])
def test_readers_in_a_pipeline(kind, check, twins):
    """The finding names the type of the error, and the image that was read."""
    pipeline = [*twins['detector'].train_dataloader.dataset.pipeline]
    findings = check(
        **{f'{DATASET}.pipeline': [pipeline[0], dict(type=f'{BrokenReader.__name__}', kind=kind)]}
    )
    (finding,) = findings
    assert (finding.level, finding.subject) == ('error', 'data')
    expected = dict(cv2='error', pickle='UnpicklingError', EOF='EOFError', zlib='error', struct='error')
    expected = expected.get(kind, 'UnidentifiedImageError')
    assert re.match(rf'train_dataloader: image 0 cannot be read: {expected}: ', finding.text)
    assert re.search(r' \(in .*data/digits_scenes/coco/train/\d+\.png\)$', finding.text)


def test_validation_images(check, twins):
    """Also those of the validation, which would fail after the first epoch."""
    pipeline = [*twins['detector'].val_dataloader.dataset.pipeline]
    pipeline.insert(1, dict(type='BrokenReader', kind='cv2'))
    findings = check(tests=True, val_dataloader__dataset__pipeline=pipeline)
    (finding,) = findings
    assert finding.text.startswith('val_dataloader: image 0 cannot be read: error: OpenCV')


def test_a_damaged_image(check, scenes, tmp_path):
    """mmcv returns None for it, and mmdet's message is an assertion."""
    for path in (scenes / 'data/digits_scenes/coco/train').iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[:60])
    (finding,) = check(**{f'{DATASET}.data_prefix': dict(img=str(tmp_path))})
    assert finding.text.startswith('train_dataloader: image 0 cannot be read: AssertionError: failed to load')
    assert str(tmp_path) in finding.text


@pytest.mark.parametrize(
    ('content', 'error'), [(b'{"images": [', 'JSONDecodeError'), (b'\xff\xfe{', 'UnicodeDecodeError')]
)
def test_annotations(content, error, check, tmp_path):
    file = tmp_path / 'annotations.json'
    file.write_bytes(content)
    (finding,) = check(**{f'{DATASET}.ann_file': str(file)})
    assert finding.text.startswith(f'train_dataloader cannot be built: {error}: ')
    assert finding.text.endswith(f'(in {file})')


def test_annotations_in_xml(check, scenes, tmp_path):
    """Of VOC's format; the message of the parser has line and column alone."""
    image = min((scenes / 'data/digits_scenes/coco/train').iterdir())
    for name in ('JPEGImages', 'Annotations'):
        (tmp_path / name).mkdir()
    Image.open(image).convert('RGB').save(tmp_path / 'JPEGImages/0.jpg')
    (tmp_path / 'Annotations/0.xml').write_text('<annotation><size>')
    (tmp_path / 'train.txt').write_text('0\n')
    dataset = dict(_delete_=True, type='VOCDataset', data_root=str(tmp_path), ann_file='train.txt')
    dataset.update(data_prefix=dict(sub_data_root=''), pipeline=[], metainfo=dict(classes=('zero',)))
    (finding,) = [each for each in check(**{DATASET: dataset}) if each.subject == 'data']
    assert finding.text == (
        f'train_dataloader cannot be built: ParseError: no element found: line 1, column 18 (in '
        f'{tmp_path / "Annotations/0.xml"})'
    )


def test_a_damaged_mask(check, scenes, tmp_path):
    root = scenes / 'data/digits_scenes/ade'
    for path in (root / 'annotations/training').iterdir():
        (tmp_path / path.name).write_bytes(b'no picture')
    prefix = dict(img_path=str(root / 'images/training'), seg_map_path=str(tmp_path))
    findings = check('segmentor', **{f'{DATASET}.data_prefix': prefix})
    (finding,) = [each for each in findings if each.level == 'error']
    assert finding.text.startswith('train_dataloader: image 0 cannot be read: UnidentifiedImageError: ')
    assert str(tmp_path) in finding.text


def test_all_are_expected():
    for kind in (cv2.error, ElementTree.ParseError, pickle.UnpicklingError, UnicodeDecodeError, EOFError):
        assert issubclass(kind, FAILURES), kind


def test_errors_without_a_message():
    """Of a plain assert, the line of code is the message."""
    try:
        assert not Path(__file__).name
    except AssertionError as error:
        bare = AssertionError().with_traceback(error.__traceback__)
    assert re.fullmatch(
        r'assert not Path\(__file__\)\.name \(tests/test_check/test_damaged\.py, line \d+\)', shorten(bare)
    )
    assert describe(KeyError('border')) == "KeyError: 'border'"
    assert shorten(ValueError('x' * 700)) == 'x' * 600 + ' [...]'
