"""Exported networks on images without PyTorch: results by hand, by OpenCV and by mmdet, and all errors."""

import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from ..conftest import ROOT, load_script

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
SCRIPT = 'tools/deployment/infer.py'
infer = load_script(SCRIPT)
LABELS = ('background', 'cat', 'dog')
LOAD = dict(type='LoadImageFromFile')
MEAN, STD = (10.0, 20.0, 30.0), (2.0, 4.0, 8.0)
TYPES = {'uint8': onnx.TensorProto.UINT8, 'float32': onnx.TensorProto.FLOAT}


def make_file(path, task, outputs=(), size=(8, 8), preprocessed=False, name='image', **about):
    """An ONNX file with constant outputs or, if none are given, with its input as the output.

    ``outputs`` has arrays without the batch axis; ``about`` changes the metadata, None removes them.
    """
    about = dict(
        dict(
            task=task, mean=MEAN, std=STD, channels='RGB', pad_divisor=1, labels=LABELS, resize=[], load=LOAD
        ),
        size=size,
        preprocessed=preprocessed,
        **about,
    )
    kind = TYPES['uint8' if preprocessed else 'float32']
    sides = list(size or ('h', 'w'))
    channels = 3 if about['mean'] == 'left out' else len(about['mean'])
    image = onnx.helper.make_tensor_value_info(
        name, kind, ['n', *sides, channels] if preprocessed else ['n', channels, *sides]
    )
    nodes, infos = [], []
    for key, value in dict(outputs).items():
        tensor = onnx.numpy_helper.from_array(np.asarray(value)[None])
        nodes.append(onnx.helper.make_node('Constant', [], [key], value=tensor))
        infos.append(onnx.helper.make_tensor_value_info(key, tensor.data_type, list(tensor.dims)))
    if not nodes:
        nodes.append(onnx.helper.make_node('Identity', [name], ['stage0']))
        infos.append(onnx.helper.make_tensor_value_info('stage0', kind, None))
    graph = onnx.helper.make_graph(nodes, 'test', [image], infos)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 18)], ir_version=8)
    about = {key: value for key, value in about.items() if value != 'left out'}
    if about:
        onnx.helper.set_model_props(model, {'mmmobilemamba': json.dumps(about)})
    onnx.save(model, str(path))
    return path


def detections(*rows, masks=None):
    """Outputs of a detector from rows (x1, y1, x2, y2, score, label)."""
    rows = np.array(rows, np.float32)
    outputs = dict(boxes=rows[:, :4], scores=rows[:, 4], labels=rows[:, 5].astype(np.int64))
    return outputs if masks is None else dict(outputs, masks=np.array(masks, np.float32))


def picture_of(width, height, seed=0):
    """An RGB image of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(noise)


def found_by(path, picture, **options):
    """Results of a file for one image."""
    network = infer.Network(path, threads=1)
    batch, placement = network.prepare(picture)
    return network.found(network.run(batch), 0, placement, **options)


def results(folder):
    return json.loads((folder / 'results.json').read_text())


@pytest.mark.parametrize('new', [(7, 5), (20, 31), (40, 26), (123, 80), (64, 12), (1, 1)])
def test_resizes_as_opencv(new):
    pixels = np.asarray(picture_of(40, 52))
    mine = infer.pictures.resize(pixels, *new)
    expected = cv2.resize(pixels, new, interpolation=cv2.INTER_LINEAR)
    assert mine.dtype == np.uint8 and mine.shape == expected.shape
    assert np.abs(mine.astype(int) - expected).max() <= 1


def test_resizes_as_pillow():
    picture = picture_of(40, 52)
    mine = infer.pictures.resize(np.asarray(picture), 13, 9, 'pillow', 'bicubic')
    assert np.array_equal(mine, np.asarray(picture.resize((13, 9), Image.Resampling.BICUBIC)))
    message = (
        r'backend cv2 and interpolation area is not supported; it must be cv2 with bilinear, or pillow with'
    )
    with pytest.raises(infer.pictures.NetworkError, match=message):
        infer.pictures.resize(np.asarray(picture), 13, 9, 'cv2', 'area')


@pytest.mark.parametrize(
    ('step', 'expected'),
    [
        (dict(type='Resize', scale=[30, 20]), (30, 20)),
        (dict(type='Resize', scale=25), (25, 25)),
        (dict(type='Resize', scale=[133, 80], keep_ratio=True), (120, 80)),
        (dict(type='Resize', scale=[80, 100], keep_ratio=True), (100, 67)),
        (dict(type='ResizeEdge', scale=25, edge='short'), (37, 25)),
        (dict(type='ResizeEdge', scale=25, edge='long'), (25, 16)),
        (dict(type='ResizeEdge', scale=25, edge='height'), (37, 25)),
    ],
)
def test_sizes_of_steps(step, expected):
    """For an image of 60 x 40."""
    assert infer.pictures.resized_size(60, 40, step) == expected


@pytest.mark.parametrize('codebase', ['mmpretrain', 'mmdet', 'mmseg'])
def test_prepares_as_the_pipeline(codebase):
    """Sizes and pixels, for several image sizes."""
    pytest.importorskip(codebase)
    transforms = __import__(f'{codebase}.datasets.transforms', fromlist=['x'])
    steps = [dict(type='Resize', scale=(41, 30), keep_ratio=True)]
    if codebase == 'mmpretrain':
        steps = [dict(type='ResizeEdge', scale=29, edge='short', backend='pillow', interpolation='bicubic')]
        steps.append(dict(type='CenterCrop', crop_size=24))
    for width, height in ((60, 40), (40, 60), (31, 77), (24, 25)):
        picture = picture_of(width, height)
        pixels, placement = np.asarray(picture), infer.pictures.Placement(picture.size, shown=picture.size)
        sample = dict(img=pixels, img_shape=pixels.shape[:2], ori_shape=pixels.shape[:2])
        for step in steps:
            pixels, placement = infer.pictures.apply_step(pixels, placement, step)
            kind = step['type']
            transform = getattr(transforms, kind, None) or getattr(
                __import__('mmcv.transforms', fromlist=['x']), kind
            )
            sample = transform(**{key: value for key, value in step.items() if key != 'type'})(sample)
        assert pixels.shape == sample['img'].shape
        assert placement.shown == pixels.shape[1::-1]
        assert np.abs(pixels.astype(int) - sample['img']).max() <= 1
        if codebase == 'mmdet':
            assert placement.scale == pytest.approx(sample['scale_factor'])


@pytest.mark.parametrize('channels', ['RGB', 'BGR'])
@pytest.mark.parametrize('preprocessed', [False, True])
def test_prepares_by_hand(tmp_path, channels, preprocessed):
    """Two pixels, in the network's channel order, padded to the fixed size."""
    path = make_file(
        tmp_path / 'x.onnx', 'backbone', size=(2, 3), channels=channels, preprocessed=preprocessed
    )
    network = infer.Network(path)
    picture = Image.new('RGB', (2, 1), (50, 60, 70))
    picture.putpixel((1, 0), (110, 120, 130))
    batch, placement = network.prepare(picture)
    assert placement == ((2, 1), (1, 1), (0, 0), (2, 1))
    if preprocessed:
        assert batch.dtype == np.uint8 and batch.shape == (1, 2, 3, 3)
        mean = MEAN if channels == 'RGB' else MEAN[::-1]  # 0 after normalisation
        assert batch[0].tolist() == [
            [[50, 60, 70], [110, 120, 130], list(mean)],
            [list(mean)] * 3,
        ]
    else:
        assert batch.dtype == np.float32 and batch.shape == (1, 3, 2, 3)
        first = (20, 10, 5) if channels == 'RGB' else (30, 10, 2.5)
        second = (50, 25, 12.5) if channels == 'RGB' else (60, 25, 10)
        assert batch[0, :, 0].T.tolist() == [list(first), list(second), [0, 0, 0]]
        assert not batch[0, :, 1].any()
    assert np.array_equal(network.run(batch)['stage0'], batch)


def test_free_sizes_are_padded_to_the_divisor(tmp_path):
    step = dict(type='Resize', scale=[40, 30], keep_ratio=True)
    network = infer.Network(
        make_file(tmp_path / 'x.onnx', 'backbone', size=None, pad_divisor=32, resize=[step])
    )
    batch, placement = network.prepare(picture_of(80, 20))
    assert batch.shape == (1, 3, 32, 64)
    assert placement == ((80, 20), (0.5, 0.5), (0, 0), (40, 10))
    assert batch[0, :, :10, :40].any() and not batch[0, :, 10:].any() and not batch[0, :, :, 40:].any()
    batch, _ = network.prepare(picture_of(64, 32))
    assert batch.shape == (1, 3, 32, 64)  # 40 x 20


def test_exif_and_depth(tmp_path):
    """An image with an EXIF orientation, and a 16-bit image."""
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    picture = picture_of(6, 4)
    picture.save(tmp_path / 'a.png', exif=exif)
    upright = infer.pictures.upright(Image.open(tmp_path / 'a.png'))
    assert np.array_equal(np.asarray(upright), np.rot90(np.asarray(picture), -1))
    Image.fromarray(np.array([[0x1234, 0xFF00]], np.uint16)).save(tmp_path / 'b.png')
    deep = infer.pictures.upright(Image.open(tmp_path / 'b.png'))
    assert np.asarray(deep)[..., 0].tolist() == [[0x12, 0xFF]]


def test_boxes_go_back(tmp_path):
    """From 100 x 50 within 100 x 100 to an image of 200 x 100: doubled, clipped, and without the padding."""
    rows = (
        (10, 5, 30.5, 40, 0.9, 1),
        (90, 40, 100, 60, 0.8, 2),  # extends into the padding
        (10, 55, 30, 90, 0.7, 1),  # inside the padding
        (0, 0, 10, 10, 0.3, 0),
        (0, 0, 10, 10, 0.2, 0),
        (0, 0, 10, 10, 0.0, 0),
    )
    step = dict(type='Resize', scale=[100, 100], keep_ratio=True)
    path = make_file(tmp_path / 'x.onnx', 'detection', detections(*rows), (100, 100), resize=[step])
    found = found_by(path, picture_of(200, 100), score_threshold=0.25)
    assert found['boxes'].tolist() == [[20, 10, 61, 80], [180, 80, 200, 100], [0, 0, 20, 20]]
    assert found['scores'].tolist() == pytest.approx([0.9, 0.8, 0.3])
    assert found['labels'].tolist() == [1, 2, 0]
    assert len(found_by(path, picture_of(200, 100), score_threshold=0)['boxes']) == 4


def test_crops_go_back(tmp_path):
    """An image of 40 x 20 is resized to 16 x 8 and cropped to the middle 8 x 8, from x = 4."""
    steps = [dict(type='ResizeEdge', scale=8, edge='short'), dict(type='CenterCrop', crop_size=8)]
    path = make_file(tmp_path / 'x.onnx', 'detection', detections((0, 2, 8, 8, 1, 1)), resize=steps)
    found = found_by(path, picture_of(40, 20))
    assert found['boxes'].tolist() == [[10, 5, 30, 20]]


def test_masks(tmp_path):
    """A left half, in a box that extends into the padding below and is doubled."""
    mask = np.zeros((4, 4))
    mask[:, :2] = 1
    outputs = detections((2, 2, 6, 10, 0.9, 1), (0, 0, 4, 4, 0.8, 2), masks=[mask, np.ones((4, 4))])
    step = dict(type='Resize', scale=[16, 16], keep_ratio=True)
    path = make_file(tmp_path / 'x.onnx', 'detection', outputs, (16, 16), resize=[step])
    found = found_by(path, picture_of(32, 16))
    assert found['boxes'].tolist() == [[4, 4, 12, 16], [0, 0, 8, 8]]
    expected = np.zeros((2, 16, 32), bool)
    expected[0, 4:16, 4:8] = True
    expected[0, 4, [4, 7]] = False  # corners: 0.625 * 0.75, due to mmdet's zeros around the mask
    expected[1, :8, :8] = True
    assert found['masks'].dtype == bool and np.array_equal(found['masks'], expected)
    assert found_by(path, picture_of(32, 16), score_threshold=1.0)['masks'].shape == (0, 16, 32)


def test_masks_as_in_mmdet():
    heads = pytest.importorskip('mmdet.models.roi_heads.mask_heads.fcn_mask_head')
    torch = pytest.importorskip('torch')
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((7, 7), np.float32)
        corner, sides = rng.random(2) * 30 - 5, rng.random(2) * 30 + 0.5
        box = np.concatenate([corner, corner + sides])
        arguments = torch.tensor(mask)[None, None], torch.tensor(box, dtype=torch.float32)[None]
        expected = heads._do_paste_mask(*arguments, 30, 40, skip_empty=False)[0][0].numpy()
        unsure = np.abs(expected - 0.5) < 1e-4
        assert ((infer.paste(mask, box, (40, 30)) == (expected >= 0.5)) | unsure).all()


def test_class_map_goes_back(tmp_path):
    """8 x 4 within 8 x 8 for an image of 16 x 8: each pixel is repeated four times, without the padding."""
    classes = np.zeros((8, 8), np.int32)
    classes[:4, 6:] = 1
    classes[3, 0] = 2
    classes[4:] = 3
    step = dict(type='Resize', scale=[8, 8], keep_ratio=True)
    path = make_file(tmp_path / 'x.onnx', 'segmentation', dict(classes=classes), resize=[step])
    found = found_by(path, picture_of(16, 8))
    assert np.array_equal(found['classes'], classes[:4].repeat(2, 0).repeat(2, 1))
    picture_of(16, 8).save(tmp_path / 'a.png')
    infer.main([str(path), str(tmp_path / 'a.png'), '--out', str(tmp_path / 'out')])
    (result,) = results(tmp_path / 'out')['pictures']
    assert result['classes'] == [
        dict(name='background', label=0, share=23 / 32),
        dict(name='cat', label=1, share=8 / 32),
        dict(name='dog', label=2, share=1 / 32),
    ]
    drawn = Image.open(tmp_path / 'out/a.png')
    assert drawn.width == 480 and drawn.height > 240  # enlarged, above a legend
    cat = np.array(infer.drawing.color_of(1))
    below = np.asarray(drawn)[240:]
    assert (below == cat).all(-1).sum() > 50
    expected = (cat + np.asarray(picture_of(16, 8).resize((480, 240), Image.Resampling.BICUBIC))[60, 450]) / 2
    assert np.abs(np.asarray(drawn)[60, 450] - expected).max() <= 1


@pytest.mark.parametrize('topk', [1, 2, 5])
def test_classes(tmp_path, topk):
    """The file returns two classes; more are selected from the logits."""
    logits = np.log(np.array([0.1, 0.6, 0.3], np.float32))
    outputs = dict(logits=logits, scores=np.float32([0.6, 0.3]), labels=np.array([1, 2]))
    path = make_file(tmp_path / 'x.onnx', 'classification', outputs)
    picture_of(8, 8).save(tmp_path / 'a.png')
    arguments = [str(path), str(tmp_path / 'a.png'), '--out', str(tmp_path / 'out'), '--topk', str(topk)]
    infer.main(arguments)
    content = results(tmp_path / 'out')
    assert (content['model'], content['task'], content['skipped']) == ('x.onnx', 'classification', [])
    (result,) = content['pictures']
    assert [entry['name'] for entry in result['classes']] == ['cat', 'dog', 'background'][:topk]
    assert [entry['score'] for entry in result['classes']] == pytest.approx([0.6, 0.3, 0.1][:topk])
    assert Image.open(tmp_path / 'out/a.png').height > 480


def test_backbone(tmp_path):
    path = make_file(tmp_path / 'x.onnx', 'backbone', labels=[])
    picture_of(6, 8).save(tmp_path / 'a.png')
    infer.main([str(path), str(tmp_path / 'a.png'), '--out', str(tmp_path / 'new/out')])
    (result,) = results(tmp_path / 'new/out')['pictures']
    assert result == dict(file='a.png', drawn='a.png', width=6, height=8, maps=dict(stage0=[3, 8, 8]))


def test_folder(tmp_path, capsys):
    """Images in two formats with the same stem, an unreadable one, one that is too large, and other files."""
    outputs = detections((2, 2, 6, 6, 0.9, 1), (1, 1, 3, 3, 0.5, 7), masks=np.ones((2, 2, 2)))
    path = make_file(tmp_path / 'x.onnx', 'detection', outputs)
    folder = tmp_path / 'pictures'
    (folder / 'deeper').mkdir(parents=True)
    picture_of(8, 8).save(folder / 'b.png')
    picture_of(8, 8).save(folder / 'b.JPG')
    picture_of(20, 8).save(folder / 'large.bmp')
    (folder / 'a.png').write_bytes((folder / 'b.png').read_bytes()[:60])
    (folder / 'notes.txt').touch()
    with pytest.raises(SystemExit) as end:
        infer.main([str(path), str(folder), '--out', str(tmp_path / 'out')])
    assert end.value.code == 1
    printed = capsys.readouterr()
    assert f'{folder / "a.png"} was skipped. It cannot be read: ' in printed.err
    assert 'large.bmp was skipped. x.onnx takes images of 8 x 8 px (height x width), but' in printed.err
    assert 'is 8 x 20 px after' in printed.err
    assert f'left out of {folder}: notes.txt; pictures end in .bmp, ' in printed.err
    assert '2 of 4 pictures' in printed.out
    content = results(tmp_path / 'out')
    assert content['skipped'] == ['a.png', 'large.bmp']
    assert [entry['file'] for entry in content['pictures']] == ['b.JPG', 'b.png']
    assert [entry['drawn'] for entry in content['pictures']] == ['b.JPG.png', 'b.png.png']
    assert content['pictures'][1]['objects'] == [
        dict(name='cat', label=1, score=pytest.approx(0.9), box=[2, 2, 6, 6], mask_area=16),
        dict(name='7', label=7, score=0.5, box=[1, 1, 3, 3], mask_area=4),
    ]
    drawn = Image.open(tmp_path / 'out/b.png.png').convert('RGB')
    assert drawn.size == (480, 480)
    assert drawn.getpixel((120, 300)) == infer.drawing.color_of(1)  # left side of the box
    names = {path.name for path in (tmp_path / 'out').iterdir()}
    assert names == {'b.JPG.png', 'b.png.png', 'results.json'}


@pytest.mark.parametrize(
    ('about', 'message'),
    [
        (dict(task='pose'), 'has the task pose; it must be backbone or classification or detection or seg'),
        (dict(size='left out', std='left out'), 'x.onnx lacks std, size. Export the network with tools/depl'),
        (
            dict.fromkeys(infer.FIELDS, 'left out'),
            'x.onnx lacks task, .* with tools/deployment/export.py',
        ),
    ],
)
def test_files_of_others(tmp_path, about, message):
    path = make_file(tmp_path / 'x.onnx', **dict(dict(task='backbone'), **about))
    with pytest.raises(infer.pictures.NetworkError, match=message):
        infer.Network(path)


def test_what_cannot_be_run(tmp_path):
    (tmp_path / 'no.onnx').write_text('nothing')
    with pytest.raises(
        infer.pictures.NetworkError, match=r'ONNX Runtime cannot open .*no.onnx, which is damaged'
    ):
        infer.Network(tmp_path / 'no.onnx')
    network = infer.Network(make_file(tmp_path / 'x.onnx', 'backbone', name='picture'))
    with pytest.raises(infer.pictures.NetworkError, match=r'cannot run x.onnx on \(1, 3, 8, 8\): .*picture'):
        network.run(np.zeros((1, 3, 8, 8), np.float32))
    for step in (dict(type='Pad', size=3), dict(type='Resize'), dict(type='CenterCrop', auto_pad=True)):
        path = make_file(tmp_path / 'x.onnx', 'backbone', resize=[step])
        with pytest.raises(
            infer.pictures.NetworkError, match='is not supported; it must be Resize or ResizeEdge'
        ):
            infer.Network(path).prepare(picture_of(8, 8))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('x.onnx', 'none', '--out', 'out'), 'There is no picture or folder none'),
        (('x.onnx', 'empty', '--out', 'out'), 'The folder empty has no pictures; they must end in .bmp'),
        (('none.onnx', 'a.png', '--out', 'out'), 'There is no file none.onnx'),
        (('x.onnx', 'a.png', '--out', '.'), '--out . is where the pictures are'),
        (('x.onnx', 'a.png', '--out', 'x.onnx'), '--out must be a folder, but x.onnx is a file'),
        (('x.onnx', 'a.png', '--out', 'x.onnx/out'), '--out must be a folder, but x.onnx is a file'),
        (('x.onnx', 'a.png', '--out', 'out', '--topk', '0'), '--topk and --threads must be 1 or more'),
        (('x.onnx', 'a.png', '--out', 'out', '--score-threshold', '30'), 'from 0 to 1, not 30'),
    ],
)
def test_errors_at_once(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    make_file(tmp_path / 'x.onnx', 'backbone')
    picture_of(8, 8).save('a.png')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(SystemExit) as end:
        infer.main(list(arguments))
    assert message in f'{end.value.code} {capsys.readouterr().err}'
    assert end.value.code not in (0, None)
    assert not (tmp_path / 'out').exists()


def test_needs_neither_pytorch_nor_openmmlab(tmp_path):
    """Five copied files work without the rest of the repository."""
    for name in ('infer.py', 'pictures.py', 'drawing.py', 'runtimes.py', 'choose.py'):
        shutil.copy(ROOT / 'tools/deployment' / name, tmp_path)
    make_file(tmp_path / 'x.onnx', 'detection', detections((2, 2, 6, 6, 0.9, 1)))
    picture_of(8, 8).save(tmp_path / 'a.png')
    code = (
        'import runpy, sys\n'
        'for name in ("torch", "mmengine", "mmcv", "mmdet", "mmmobilemamba", "onnx", "cv2"):\n'
        '    sys.modules[name] = None\n'
        'sys.argv = ["infer.py", "x.onnx", "a.png", "--out", "out", "--threads", "1"]\n'
        'runpy.run_path("infer.py", run_name="__main__")\n'
    )
    result = subprocess.run(
        [sys.executable, '-c', code],
        cwd=tmp_path,
        env=dict(os.environ, OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert 'results.json and 1 of 1 pictures' in result.stdout
    assert results(tmp_path / 'out')['pictures'][0]['objects'][0]['name'] == 'cat'
