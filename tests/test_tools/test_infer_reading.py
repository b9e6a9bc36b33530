"""Image loading in infer.py: equal to mmcv with the loader in the file's metadata, or an error."""

import io

import cv2
import numpy as np
import pytest
from mmengine.utils import digit_version
from PIL import Image

mmcv = pytest.importorskip('mmcv')

from ..conftest import load_script  # noqa: E402
from .test_infer import infer, make_file, picture_of  # noqa: E402

RGB = np.asarray(picture_of(9, 7).resize((70, 90), Image.Resampling.BICUBIC))
DEEP = RGB[..., 0].astype(np.uint16) * 256 + RGB[..., 1]
COLORS = ('color', 'color_ignore_orientation', 'grayscale', 'grayscale_ignore_orientation', 'unchanged')
SUFFIXES = dict(PNG='png', JPEG='jpg', TIFF='tif', BMP='bmp', WEBP='webp', GIF='gif')


def pictures():
    """Images in all of Pillow's modes that files support (PIL.Image), with their formats."""
    picture = Image.fromarray(RGB)
    alpha = Image.fromarray(RGB[..., 2])
    rgba, gray = picture.copy(), picture.convert('L')
    rgba.putalpha(alpha)
    both = gray.copy()
    both.putalpha(alpha)
    for kind in ('PNG', 'JPEG', 'TIFF', 'BMP', 'WEBP'):
        yield f'RGB-{kind}', picture, kind
        yield f'L-{kind}', gray, kind
    for kind in ('PNG', 'TIFF', 'BMP', 'GIF'):
        yield f'P-{kind}', picture.quantize(64), kind
    for kind in ('PNG', 'TIFF', 'BMP'):
        yield f'1-{kind}', picture.convert('1'), kind
    for kind in ('PNG', 'TIFF', 'WEBP'):
        yield f'RGBA-{kind}', rgba, kind
    for kind in ('PNG', 'TIFF'):
        yield f'LA-{kind}', both, kind
        yield f'I;16-{kind}', Image.fromarray(DEEP), kind
    for kind in ('JPEG', 'TIFF'):
        yield f'CMYK-{kind}', picture.convert('CMYK'), kind
    yield 'I-TIFF', Image.fromarray(DEEP.astype(np.int32)), 'TIFF'
    yield 'F-TIFF', Image.fromarray(RGB[..., 0].astype(np.float32)), 'TIFF'
    yield 'LAB-TIFF', picture.convert('LAB'), 'TIFF'
    yield 'YCbCr-TIFF', picture.convert('YCbCr'), 'TIFF'


PICTURES = {name: (picture, kind) for name, picture, kind in pictures()}
REFUSED = {  # for every color_type, by backend
    'cv2': {'I-TIFF', 'F-TIFF', 'LAB-TIFF', 'RGBA-TIFF'},
    'pillow': {'I-TIFF', 'F-TIFF', 'I;16-PNG', 'I;16-TIFF'},
}
UNCHANGED = {'RGB', 'L', 'RGBA'}  # allowed with color_type='unchanged'


def encode(picture, kind, **kwargs):
    content = io.BytesIO()
    settings = dict(JPEG=dict(quality=95), WEBP=dict(lossless=True)).get(kind, {})
    picture.save(content, kind, **settings, **kwargs)
    return content.getvalue()


def read(content, **load):
    """Pixels read by infer.py, in mmcv's channel order."""
    picture = infer.pictures.read_picture(
        Image.open(io.BytesIO(content)), {'type': 'LoadImageFromFile', **load}
    )
    pixels = np.asarray(picture)
    return pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize('name', PICTURES)
def test_every_mode(name, backend):
    """Pixels equal with Pillow and nearly equal for colours with OpenCV; gray from colours to 2 of 255."""
    content = encode(*PICTURES[name])
    if backend == 'cv2' and 'GIF' in name and digit_version(cv2.__version__) < digit_version('5.0'):
        pytest.skip('needs OpenCV 5.0, which reads GIF')
    for color in COLORS:
        load = dict(imdecode_backend=backend, color_type=color)
        mode = Image.open(io.BytesIO(content)).mode
        if name in REFUSED[backend] or (color == 'unchanged' and mode not in UNCHANGED):
            with pytest.raises(infer.pictures.NetworkError, match=r'cannot be read as in the training: '):
                read(content, **load)
            continue
        expected = mmcv.imfrombytes(content, color, backend=backend)
        mine = read(content, **load)
        assert mine.dtype == expected.dtype == np.uint8 and mine.shape == expected.shape, color
        assert np.abs(mine.astype(int) - expected).max() <= (2 if backend == 'cv2' else 1), color


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'TIFF'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientations(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(Image.fromarray(RGB), kind, exif=exif)
    for backend in ('cv2', 'pillow'):
        for color in COLORS:
            expected = mmcv.imfrombytes(content, color, backend=backend)
            mine = read(content, imdecode_backend=backend, color_type=color)
            assert mine.shape == expected.shape
            assert np.abs(mine.astype(int) - expected).max() <= 2
    # turbojpeg ignores the orientation
    if kind == 'JPEG':
        stored = read(content, imdecode_backend='cv2', color_type='unchanged')
        assert np.array_equal(read(content, imdecode_backend='turbojpeg'), stored)


def test_our_loader(tmp_path):
    """Equal to PillowLoadImageFromFile, including 16-bit images."""
    pytest.importorskip('mmpretrain')
    from mmmobilemamba.datasets import PillowLoadImageFromFile

    for name, (picture, kind) in PICTURES.items():
        path = tmp_path / f'a.{SUFFIXES[kind]}'
        path.write_bytes(encode(picture, kind))
        for color in ('color', 'grayscale'):
            load = dict(type='PillowLoadImageFromFile', color_type=color)
            if name in ('I-TIFF', 'F-TIFF'):
                with pytest.raises(infer.pictures.NetworkError, match='its values have no range'):
                    read(path.read_bytes(), **load)
                continue
            expected = PillowLoadImageFromFile(color_type=color)(dict(img_path=str(path)))['img']
            assert np.array_equal(read(path.read_bytes(), **load), expected), name


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_reading_twice_is_reading_once(backend):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode(Image.fromarray(RGB), 'JPEG', exif=exif)
    for color in COLORS:
        load = dict(type='LoadImageFromFile', imdecode_backend=backend, color_type=color)
        once = infer.pictures.read_picture(Image.open(io.BytesIO(content)), load)
        assert np.array_equal(np.asarray(once), np.asarray(infer.pictures.read_picture(once, load)))


@pytest.mark.parametrize(
    ('load', 'message'),
    [
        (None, r'reads pictures with None, which this program cannot follow; it knows LoadImageFromFile'),
        (dict(type='LoadBands'), r'reads pictures with LoadBands, which'),
        (dict(imdecode_backend='tifffile'), r"has imdecode_backend='tifffile', which"),
        (dict(color_type='anydepth'), r"has color_type='anydepth', which"),
        (dict(to_float32=True), r'has to_float32=True, which'),
        (dict(imdecode_backend='turbojpeg'), r'turbojpeg, reads JPEG alone, and this is PNG'),
    ],
)
def test_loaders_that_cannot_be_followed(tmp_path, load, message):
    load = load if load is None else {'type': 'LoadImageFromFile', **load}
    network = infer.Network(make_file(tmp_path / 'x.onnx', 'backbone', load=load))
    picture_of(8, 8).save(tmp_path / 'a.png')
    with pytest.raises(infer.pictures.NetworkError, match=message):
        network.prepare(Image.open(tmp_path / 'a.png'))


@pytest.mark.parametrize('preprocessed', [False, True])
@pytest.mark.parametrize(
    ('channels', 'color', 'mode'),
    [('gray', 'grayscale', 'RGB'), ('gray', 'unchanged', 'L'), ('BGRA', 'unchanged', 'RGBA')],
)
def test_other_channels(tmp_path, channels, color, mode, preprocessed):
    """Gray and BGRA images as read by mmcv, resized, normalised and padded."""
    count = 1 if channels == 'gray' else 4
    about = dict(mean=[10.0, 20.0, 30.0, 40.0][:count], std=[2.0] * count, channels=channels)
    load = dict(type='LoadImageFromFile', color_type=color, imdecode_backend='pillow')
    step = dict(type='Resize', scale=[6, 4], backend='pillow', interpolation='bicubic')
    path = make_file(
        tmp_path / 'x.onnx', 'backbone', preprocessed=preprocessed, load=load, resize=[step], **about
    )
    picture = picture_of(9, 7).convert(mode)
    if mode == 'RGBA':
        picture.putalpha(picture_of(9, 7, 1).convert('L'))
    picture.save(tmp_path / 'a.png')
    batch, placement = infer.Network(path).prepare(Image.open(tmp_path / 'a.png'))
    pixels = mmcv.imread(str(tmp_path / 'a.png'), color, backend='pillow')
    expected = mmcv.imresize(pixels, (6, 4), interpolation='bicubic', backend='pillow').reshape(4, 6, count)
    assert placement.shown == (6, 4)
    if preprocessed:
        assert batch.shape == (1, 8, 8, count) and batch.dtype == np.uint8
        assert np.abs(batch[0, :4, :6].astype(int) - expected).max() <= 1
        assert (batch[0, 4:] == np.array(about['mean'])).all()
    else:
        assert batch.shape == (1, count, 8, 8) and batch.dtype == np.float32
        normal = (expected - np.array(about['mean'])) / 2
        assert np.abs(batch[0, :, :4, :6].transpose(1, 2, 0) - normal).max() <= 1e-4
        assert not batch[0, :, 4:].any()


def test_channels_that_do_not_fit(tmp_path):
    load = dict(type='LoadImageFromFile', color_type='unchanged')
    network = infer.Network(make_file(tmp_path / 'x.onnx', 'backbone', load=load))
    with pytest.raises(
        infer.pictures.NetworkError, match=r'x.onnx takes images of 3 channels, .* makes 1 of this'
    ):
        network.prepare(picture_of(8, 8).convert('L'))


def test_pictures_are_drawn_as_the_network_sees_them(tmp_path):
    """A rotated photo that is read as stored keeps its sides, and the results say so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / 'photos').mkdir()
    picture_of(6, 4).save(tmp_path / 'photos/a.jpg', exif=exif)
    for color, size in (('color', (4, 6)), ('color_ignore_orientation', (6, 4))):
        load = dict(type='LoadImageFromFile', color_type=color)
        path = make_file(tmp_path / 'x.onnx', 'backbone', labels=[], load=load)
        infer.main([str(path), str(tmp_path / 'photos'), '--out', str(tmp_path / color)])
        (result,) = infer.json.loads((tmp_path / color / 'results.json').read_text())['pictures']
        assert (result['width'], result['height']) == size
        drawn = Image.open(tmp_path / color / 'a.png')
        assert (drawn.width > 400) == (size == (6, 4))


@pytest.mark.parametrize(
    'step',
    [
        dict(size=(12, 14), pad_val=dict(img=(114, 113, 112))),
        dict(size=(3, 14)),
        dict(pad_to_square=True, pad_val=7),
        dict(size_divisor=8, pad_val=dict(img=5)),
    ],
)
def test_pads_as_mmcv(step):
    from mmcv.transforms import Pad

    pixels = np.asarray(picture_of(9, 7))
    expected = Pad(**step)(dict(img=pixels[..., ::-1].copy()))['img'][..., ::-1]
    placement = infer.pictures.Placement((9, 7), shown=(9, 7))
    mine, after = infer.pictures.apply_step(pixels, placement, dict(step, type='Pad'))
    assert np.array_equal(mine, expected) and after == placement


def test_pad_of_a_segmentor_is_refused(tmp_path):
    """mmseg stretches the padded map over the image."""
    path = make_file(tmp_path / 'x.onnx', 'segmentation', resize=[dict(type='Pad', size=[8, 8])])
    with pytest.raises(infer.pictures.NetworkError, match='Pad in the test pipeline of a segmentor'):
        infer.Network(path).prepare(picture_of(8, 8))


def test_files_that_do_not_say_how(tmp_path):
    """Files of older releases are read with OpenCV's conventions, with a warning."""
    path = make_file(tmp_path / 'x.onnx', 'backbone', load='left out')
    with pytest.warns(
        UserWarning, match=r'x.onnx does not say how pictures are read: .* Export the network again'
    ):
        network = infer.Network(path)
    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO(encode(Image.fromarray(RGB), 'PNG', exif=exif))
    assert np.array_equal(np.asarray(network.read(Image.open(content))), np.rot90(RGB, -1))


def test_a_classifier_takes_pictures_of_its_size_alone(tmp_path):
    """It would pool over the padding and differ from the model."""
    network = infer.pictures.Preparation(
        dict(
            task='classification', mean=[0.0] * 3, std=[1.0] * 3, channels='RGB', pad_divisor=1, labels=[],
            resize=[], size=[8, 8], preprocessed=False, load=dict(type='LoadImageFromFile'),
        ),
        'x.onnx',
    )  # fmt: skip
    assert network.prepare(picture_of(8, 8))[0].shape == (1, 3, 8, 8)
    with pytest.raises(
        infer.pictures.NetworkError, match=r'takes images of 8 x 8 px .* the picture is 8 x 6 px'
    ):
        network.prepare(picture_of(6, 8))


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_orientation_in_xmp_alone(backend):
    """Pillow reads it, OpenCV does not."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    content = encode(Image.fromarray(RGB), 'JPEG', xmp=xmp)
    expected = mmcv.imfrombytes(content, backend=backend)
    found = read(content, imdecode_backend=backend)
    assert found.shape == expected.shape == ((90, 70, 3) if backend == 'cv2' else (70, 90, 3))
    assert np.abs(found.astype(int) - expected).max() <= 3


def test_former_name_has_what_it_had():
    former = load_script('tools/deployment/infer_onnx.py')
    for name in ('main', 'Network', 'NetworkError', 'Placement', 'Preparation', 'upright'):
        assert callable(getattr(former, name))
