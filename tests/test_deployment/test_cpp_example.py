"""Results of ``examples/cpp`` equal those of PyTorch, natively and as aarch64; ``make test-deploy``.

Most networks here are written by hand: an identity network shows how images are prepared, and networks with
constant outputs show which candidates of a detector are selected.
"""

import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')
pytest.importorskip('mmseg')

from mmmobilemamba.deployment import build
from mmmobilemamba.deployment.raw_graphs import RawDetector, make_raw_graph
from mmmobilemamba.deployment.targets import TARGETS

from ..conftest import ROOT, load_script, noise_for
from . import dense_detectors
from .networks import checkpoint_of, config_of

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1800)]  # the first build takes minutes
infer = load_script('tools/deployment/infer.py')
SOURCE = ROOT / 'examples' / 'cpp'
BUILDS = ROOT / 'work_dirs' / 'examples' / 'cpp'  # kept between runs: most of the build is ncnn
# Build ncnn for one processor generation only; all of them take minutes longer.
LEAN = ['-DNCNN_RUNTIME_CPU=OFF', '-DNCNN_AVX=OFF', '-DNCNN_ARM82=OFF']
NEEDED = dict(
    host=['cmake', 'c++'],
    aarch64=['cmake', 'aarch64-linux-gnu-g++', 'qemu-aarch64'],
)
EMULATOR = ['qemu-aarch64', '-L', '/usr/aarch64-linux-gnu']
IMAGE = dict(type='LoadImageFromFile')
ABOUT = dict(  # of an identity network whose outputs are logits from 0 to 4
    task='classification',
    mean=[0.0] * 3,
    std=[64.0] * 3,
    channels='RGB',
    pad_divisor=1,
    labels=[],
    load=IMAGE,
    resize=[],
    outputs=['logits'],
    preprocessed=False,
    input=dict(layout='NCHW', dtype='float32'),
)


@pytest.fixture(scope='module', params=NEEDED)
def program(request):
    """The command (list[str]) of the program for this machine, or for aarch64 in an emulator."""
    kind = request.param
    missing = [name for name in NEEDED[kind] if shutil.which(name) is None]
    if missing:
        pytest.skip(f'{kind} needs {", ".join(missing)}')
    folder = BUILDS / kind
    toolchain = [f'-DCMAKE_TOOLCHAIN_FILE={SOURCE / "aarch64.cmake"}'] if kind == 'aarch64' else []
    made = subprocess.run(
        ['cmake', '-S', SOURCE, '-B', folder, *LEAN, *toolchain], capture_output=True, text=True, timeout=300
    )
    for reason in ('nlohmann/json.hpp or stb_image.h is missing', 'Each download failed'):
        if reason in made.stderr:
            pytest.skip(f'{kind}: {reason}')
    assert made.returncode == 0, made.stderr
    built = subprocess.run(['cmake', '--build', folder, '-j2'], capture_output=True, text=True, timeout=1500)
    assert built.returncode == 0, built.stderr[-4000:]
    own = [line for line in built.stderr.splitlines() if str(SOURCE) in line and 'warning' in line]
    assert not own, own
    return [*(EMULATOR if kind == 'aarch64' else []), str(folder / 'mobilemamba')]


def call(program, *words):
    """Run the program (CompletedProcess)."""
    return subprocess.run([*program, *map(str, words)], capture_output=True, text=True, timeout=120)


def entry_of(program, network, picture, *options):
    """Return the program's results for an image (dict)."""
    done = call(program, network, picture, '--json', *options)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content['model'] == network.name
    assert content['task'] == json.loads(network.with_name(f'{network.name}.json').read_text())['task']
    assert content['skipped'] == []
    (entry,) = content['pictures']
    assert entry['file'] == picture.name
    return entry


def refusal(program, *words):
    """Return the program's one-line error message."""
    done = call(program, *words)
    assert (done.returncode, done.stdout) == (1, '')
    (line,) = (line for line in done.stderr.splitlines() if line.startswith('mobilemamba: error: '))
    return line


def write_network(folder, about, layers, weights=b''):
    """Write ncnn files of a network whose layers have one output each; returns NAME.ncnn (Path)."""
    path = folder / 'network.ncnn'
    layers = ['Input in0 0 1 in0', *layers]
    path.with_suffix('.ncnn.param').write_text(
        f'7767517\n{len(layers)} {len(layers)}\n' + '\n'.join(layers) + '\n'
    )
    path.with_suffix('.ncnn.bin').write_bytes(weights)
    path.with_suffix('.ncnn.json').write_text(json.dumps(about))
    return path


def mirror(folder, **changes):
    """An identity network and its metadata."""
    about = dict(ABOUT, **changes)
    return write_network(folder, about, ['Flatten flat 1 1 in0 out0']), about


def photo(width, height, seed=0, channels=3):
    """A smooth image with noise, uint8 (height, width, channels), that includes 0 and 255."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, channels), dtype=np.uint8).squeeze())
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR), np.float64)
    pixels = np.clip(pixels + rng.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
    pixels[0, 0], pixels[-1, -1] = 0, 255
    return pixels


def assert_prepared(program, folder, picture, atol=1e-4, **changes):
    """Check that the program prepares an image like ``infer.py``; gray levels differ by 1/80."""
    network, about = mirror(folder, **changes)
    preparation = infer.pictures.Preparation(
        dict(about, preprocessed=False, input=ABOUT['input']), network.name
    )
    with Image.open(picture) as file:
        batch, _ = preparation.prepare(file)
    mean, std = (np.reshape(about[key], (-1, 1, 1)) for key in ('mean', 'std'))
    logits = batch[0].astype(np.float64)
    if about['preprocessed']:
        logits = (logits * std + mean)[:: -1 if about['channels'] == 'BGR' else 1]
    entry = entry_of(program, network, picture, '--topk', logits.size)
    found = np.empty(logits.size)
    found[[each['label'] for each in entry['classes']]] = [each['score'] for each in entry['classes']]
    expected = logits.ravel() - np.log(np.exp(logits).sum())
    assert np.abs(np.log(found) - expected).max() < atol


def resize(width, height, **changes):
    return dict(type='Resize', scale=[width, height], **changes)


PILLOW = dict(backend='pillow', interpolation='bicubic')
STEPS = {
    'cv2 shrinks': ([resize(40, 30)], (30, 40)),
    'cv2 enlarges': ([resize(150, 140)], (140, 150)),
    'cv2 keeps ratio': ([resize(64, 48, keep_ratio=True)], (43, 64)),
    'one number': ([dict(type='Resize', scale=33)], (33, 33)),
    'bicubic shrinks': ([resize(40, 30, **PILLOW)], (30, 40)),
    'bicubic enlarges': ([resize(150, 140, **PILLOW)], (140, 150)),
    'bilinear of Pillow': ([resize(41, 29, backend='pillow')], (29, 41)),
    'name in capitals': ([resize(41, 29, backend='pillow', interpolation='BICUBIC')], (29, 41)),
    'vertically first': ([resize(90, 20, **PILLOW)], (20, 90)),
    'lower and wider': ([resize(150, 30, **PILLOW)], (30, 150)),
    'recipe of ImageNet': (
        [dict(type='ResizeEdge', scale=36, edge='short', **PILLOW), dict(type='CenterCrop', crop_size=31)],
        (31, 31),
    ),
    'long edge': ([dict(type='ResizeEdge', scale=50, edge='long')], (33, 50)),
    'width': ([dict(type='ResizeEdge', scale=50, edge='width')], (33, 50)),
    'height': ([dict(type='ResizeEdge', scale=50, edge='height')], (50, 74)),
    'half pixels': (
        [dict(type='CenterCrop', crop_size=[50, 42])],
        (42, 50),
    ),  # (97 - 50) / 2 and (65 - 42) / 2
    'crop of less': ([dict(type='CenterCrop', crop_size=[200, 20])], (20, 97)),
    'pad to square': (
        [dict(type='Pad', pad_to_square=True, pad_val=dict(img=(10, 114.6, 250)))],
        (97, 97),
    ),
    'pad to multiples': ([dict(type='Pad', size_divisor=32, pad_val=[1, 2, 3])], (96, 128)),
    'pad to a size': ([dict(type='Pad', size=[100, 60], pad_val=7)], (65, 100)),
    'nothing': ([], (65, 97)),
}


@pytest.mark.parametrize('name', STEPS)
def test_steps(program, tmp_path, name):
    steps, size = STEPS[name]
    picture = tmp_path / 'a.png'
    Image.fromarray(photo(97, 65)).save(picture)
    assert_prepared(program, tmp_path, picture, resize=steps, size=size)


FOUR = dict(mean=[0.0] * 4, std=[64.0] * 4, channels='BGRA', load=dict(IMAGE, color_type='unchanged'))
GRAY = dict(mean=[0.0], std=[64.0], channels='gray')


@pytest.mark.parametrize(
    'changes',
    [
        dict(channels='BGR', mean=[1.0, 2.0, 3.0], std=[64.0, 70.0, 80.0]),
        dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
        dict(preprocessed=True),
        dict(preprocessed=True, channels='BGR', mean=[1.0, 2.0, 3.0], std=[64.0, 70.0, 80.0]),
        dict(GRAY, load=dict(IMAGE, color_type='grayscale')),
        dict(
            GRAY, load=dict(IMAGE, color_type='grayscale'), resize=[resize(40, 30, **PILLOW)], size=(30, 40)
        ),
        FOUR,
        dict(FOUR, preprocessed=True),
        dict(FOUR, resize=[resize(40, 30)], size=(30, 40)),
    ],
    ids=str,
)
def test_channels(program, tmp_path, changes):
    picture = tmp_path / 'a.png'
    Image.fromarray(photo(50, 40, channels=len(changes.get('mean', [0] * 3)))).save(picture)
    assert_prepared(program, tmp_path, picture, **{'size': (40, 50), **changes})


LOADERS = {
    'cv2': IMAGE,
    'pillow': dict(IMAGE, imdecode_backend='pillow'),
    'gray of pillow': dict(IMAGE, imdecode_backend='pillow', color_type='grayscale'),
    'own': dict(type='PillowLoadImageFromFile', color_type='color_ignore_orientation'),
}


def pictures_of_modes():
    """Images in modes that loaders convert to RGB or gray, by name."""
    gray, rgb, rgba = (Image.fromarray(photo(24, 20, channels=count).squeeze()) for count in (1, 3, 4))
    deep = Image.fromarray(photo(24, 20, 3, 1).squeeze().astype(np.uint16) * 255 + 77)
    return {
        'L': gray,
        'RGB': rgb,
        'RGBA': rgba,
        'LA': Image.merge('LA', (gray, rgba.getchannel('A'))),
        'P': rgb.quantize(16),
        '1': gray.convert('1'),
        'I;16': deep,
    }


@pytest.mark.parametrize('loader', LOADERS)
@pytest.mark.parametrize('mode', ['L', 'RGB', 'RGBA', 'LA', 'P', '1', 'I;16'])
def test_modes(program, tmp_path, mode, loader):
    picture, load = tmp_path / 'a.png', LOADERS[loader]
    pictures_of_modes()[mode].save(picture)
    changes = dict(size=(20, 24), load=load, **(GRAY if loader.startswith('gray') else {}))
    if mode == 'I;16' and load.get('imdecode_backend') == 'pillow':
        assert 'makes all above 255 white' in refusal(program, mirror(tmp_path, **changes)[0], picture)
    else:
        assert_prepared(program, tmp_path, picture, **changes)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('loader', ['cv2', 'own'])
def test_orientation(program, tmp_path, orientation, loader):
    picture, exif = tmp_path / 'a.png', Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photo(24, 20)).save(picture, exif=exif)
    turns = orientation >= 5 and loader == 'cv2'
    size = (24, 20) if turns else (20, 24)
    assert_prepared(program, tmp_path, picture, size=size, load=LOADERS[loader])
    network, _ = mirror(tmp_path, size=size, load=LOADERS[loader])
    assert [entry_of(program, network, picture)[key] for key in ('height', 'width')] == list(size)


@pytest.mark.parametrize('byte_order', ['II', 'MM'])
def test_jpeg(program, tmp_path, byte_order):
    """Orientation and pixels, which differ by less than 4 of 255 between decoders."""
    picture = tmp_path / 'a.jpg'
    entry = (0x0112).to_bytes(2, 'big') + b'\0\3\0\0\0\1\0\6\0\0'
    exif = b'MM\0*\0\0\0\x08\0\1' + entry + b'\0\0\0\0'
    if byte_order == 'II':
        exif = b'II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0'
    pixels = Image.fromarray(photo(96, 64)).resize((120, 80))
    pixels.save(picture, quality=95, subsampling=0, exif=b'Exif\0\0' + exif)
    assert_prepared(program, tmp_path, picture, atol=4 / 64, size=(120, 80))
    pixels.convert('L').save(picture)
    assert_prepared(program, tmp_path, picture, atol=4 / 64, size=(80, 120))


def constants(folder, candidates, outputs, size):
    """A detector that returns the same outputs for every image."""
    layers, weights = [], b''
    for index, values in enumerate(outputs.values()):
        shape = values.shape[1:]
        sides = ' '.join(f'{place}={side}' for place, side in enumerate(reversed(shape)))
        layers.append(f'MemoryData m{index} 0 1 out{index} {sides}')
        weights += values[0].numpy().astype('<f4').tobytes()
    about = dict(ABOUT, task='detection', outputs=list(outputs), size=size, candidates=candidates)
    return write_network(folder, about, layers, weights)


def assert_objects(entry, boxes, scores, labels, threshold):
    """Check objects against the outputs of a graph (N, K): boxes to 1 px, scores to 1e-3."""
    count = int((scores[0] >= threshold).sum())
    objects = entry['objects']
    assert [each['label'] for each in objects] == labels[0, :count].tolist()
    assert np.allclose([each['score'] for each in objects], scores[0, :count], atol=1e-3)
    assert np.allclose([each['box'] for each in objects], boxes[0][:count], atol=1)
    return count


def assert_chosen(program, folder, config, least=1):
    """Check that the program selects the same candidates from raw outputs as the detector."""
    model = dense_detectors.build(config)
    image = noise_for((1, 3, 160, 192), 0)
    with torch.no_grad():
        raw = RawDetector(model, image)
        outputs = dict(zip(raw.output_names, raw(image)))
        boxes, scores, labels = build.make_graph(model, 'detection')(image)
    network = constants(folder, raw.candidates, outputs, image.shape[2:])
    picture = folder / 'a.png'
    Image.fromarray(photo(192, 160)).save(picture)
    inside = boxes.clamp(min=0).minimum(torch.tensor([192.0, 160.0] * 2))
    seen = (scores > 0) & (inside[..., 2:] > inside[..., :2]).all(-1)
    entry = entry_of(program, network, picture, '--score-threshold', 0)
    count = assert_objects(entry, inside[seen][None], scores[seen][None], labels[seen][None], 0)
    assert count >= least


@pytest.mark.parametrize('name', [name for name in dense_detectors.HEADS if 'PAA' not in name])
def test_heads(program, tmp_path, name):
    assert_chosen(program, tmp_path, dense_detectors.config_of(name), least=10)


NMS = dict(type='nms', iou_threshold=0.5)


@pytest.mark.parametrize('name', ['RetinaHead', 'FCOSHead', 'YOLOXHead'])
@pytest.mark.parametrize(
    'settings',
    [
        dict(score_thr=0.6),
        dict(score_thr=0.0),
        dict(nms_pre=7),
        dict(nms_pre=-1),
        dict(nms_pre=-20, max_per_img=1000, score_thr=0.8),
        dict(max_per_img=3),
        dict(min_bbox_size=-1),
        dict(nms=dict(iou_threshold=0.2)),
        dict(nms=dict(NMS, class_agnostic=True)),
        dict(nms=dict(NMS, class_agnostic=True, split_thr=20)),
        dict(nms=dict(NMS, split_thr=20)),
        dict(nms=dict(NMS, max_num=5)),
        dict(nms=dict(NMS, offset=1)),
        dict(nms=dict(NMS, score_threshold=0.7)),
        dict(nms=None),
    ],
    ids=str,
)
def test_settings_of_test_cfg(program, tmp_path, settings, name):
    assert_chosen(program, tmp_path, dense_detectors.config_of(name, settings))


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """A function that exports a small network to ncnn; returns its files, PyTorch's graph and metadata."""
    target = TARGETS['.ncnn']
    reason = target.why_not()
    if reason:
        pytest.skip(reason)
    made = {}

    def export(name, size, inside=False):
        if (name, inside) in made:
            return made[name, inside]
        folder = tmp_path_factory.mktemp(name)
        config = config_of(name)
        model = build.load_model(config, checkpoint_of(name, folder))
        task = build.task_of(model)
        graph, about = build.make_graph(model, task), build.describe(config, task, model)
        image = noise_for((2, 3, *size), 0)
        raw = make_raw_graph(model, task, image, target.segmentation)
        about.update(
            outputs=raw.output_names,
            precision='float32',
            size=size,
            preprocessed=inside,
            input=ABOUT['input'],
            pad_value=1.5,  # so that padding differs from the mean
            **({'candidates': raw.candidates} if task == 'detection' else {}),
        )
        if inside:
            raw = build.with_preprocessing(raw, about, as_read=False)
        target.write(raw, image, folder / f'{name}.ncnn', about)
        made[name, inside] = folder / f'{name}.ncnn', graph, about
        return made[name, inside]

    return export


@pytest.mark.parametrize('suffix', ['png', 'jpg'])
@pytest.mark.parametrize(
    ('name', 'inside'),
    [
        ('classifier', False),
        ('classifier', True),
        ('retinanet', False),
        ('retinanet', True),
        ('ssdlite', False),
        ('sem_fpn', False),
    ],
)
def test_networks(program, exported, tmp_path, name, suffix, inside):
    """All results, for an image whose size and aspect ratio differ from the network's."""
    sizes = dict(classifier=(64, 64), retinanet=(160, 160))
    network, graph, about = exported(name, sizes.get(name, (224, 224)), inside)
    picture = tmp_path / f'a.{suffix}'
    Image.fromarray(photo(140, 180)).save(
        picture, **({} if suffix == 'png' else dict(quality=95, subsampling=0))
    )
    preparation = infer.pictures.Preparation(dict(about, preprocessed=False), network.name)
    with Image.open(picture) as file:
        batch, placement = preparation.prepare(file)
    with torch.no_grad():
        expected = dict(zip(graph.output_names, graph(torch.from_numpy(batch))))
    entry = entry_of(program, network, picture, '--score-threshold', 0.3)
    assert (entry['width'], entry['height']) == (140, 180)
    if about['task'] == 'classification':
        labels, scores = expected['labels'][0].tolist(), expected['scores'][0]
        assert [each['label'] for each in entry['classes']] == labels
        assert np.allclose([each['score'] for each in entry['classes']], scores, atol=1e-3)
        assert [each['name'] for each in entry['classes']] == [about['labels'][label] for label in labels]
    elif about['task'] == 'segmentation':
        labels, counts = np.unique(placement.map_back(expected['classes'][0].numpy()), return_counts=True)
        shares = dict(zip(labels.tolist(), counts / (140 * 180)))
        assert {each['label']: each['share'] for each in entry['classes']} == pytest.approx(shares, abs=2e-3)
    else:
        boxes, scores, labels = (expected[key] for key in ('boxes', 'scores', 'labels'))
        boxes = boxes / torch.tensor(placement.scale * 2)
        boxes = boxes.clamp(min=0).minimum(torch.tensor([140.0, 180.0] * 2))
        inner = (boxes[..., 2:] > boxes[..., :2]).all(-1)
        values = [x[inner][None] for x in (boxes, scores, labels)]
        if suffix == 'png':
            assert assert_objects(entry, *values, 0.3) > 20
        else:  # the order of nearly equal scores may differ
            assert np.allclose(
                [each['score'] for each in entry['objects']][:20], values[1][0, :20], atol=1e-2
            )


def test_lines(program, tmp_path):
    """The text output: class, score and box, separated by tabs."""
    network, _ = mirror(tmp_path, size=(1, 2), labels=['a b', 'c'])
    picture = tmp_path / 'a.png'
    Image.fromarray(np.array([[[0, 0, 0], [64, 0, 0]]], np.uint8)).save(picture)
    done = call(program, network, picture, '--topk', 2, '--threads', 1)
    share = np.e / (np.e + 5)
    assert done.stdout == f'c\t{share:.4f}\na b\t{share / np.e:.4f}\n'
    candidates = dict(
        kind='pairs',
        levels=[1],
        nms_pre=5,
        score_thr=0.1,
        max_per_img=5,
        min_bbox_size=-1,
        votes=False,
        nms=None,
    )
    outputs = dict(boxes=torch.tensor([[[0.0, 0.25, 1.5, 9.0]]]), scores=torch.tensor([[[0.2, 0.9]]]))
    done = call(program, constants(tmp_path, candidates, outputs, (1, 2)), picture)
    assert done.stdout == '1\t0.9000\t0.0\t0.2\t1.5\t1.0\n'
    about = dict(ABOUT, task='backbone', outputs=['stage1'], size=(1, 2))
    done = call(program, write_network(tmp_path, about, ['Noop same 1 1 in0 out0']), picture)
    assert done.stdout == 'stage1\t[3,1,2]\n'
    assert call(program, '--help').stdout.startswith('usage: mobilemamba NETWORK.ncnn PICTURE')


VOTES = dict(kind='pairs', votes=True, nms=None)
DETECTOR = dict(task='detection', outputs=['boxes', 'scores'])


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(resize=[dict(type='Albu')]), 'The step {"type":"Albu"} is not supported; it must be'),
        (dict(resize=[dict(type='Resize', scale_factor=2)]), 'is not supported'),
        (dict(resize=[dict(type='CenterCrop', crop_size=9, auto_pad=True)]), 'without auto_pad'),
        (dict(resize=[dict(type='Pad', size_divisor=8, padding_mode='reflect')]), 'Pad of a constant'),
        (dict(resize=[resize(9, 9, interpolation='area')]), 'backend cv2 and interpolation area is not'),
        (dict(resize=[resize(9, 9, backend='pillow', interpolation='lanczos')]), 'pillow with bilinear or'),
        (
            dict(resize=[resize(9, 9)]),
            'takes images of 20 x 24 px (height x width), but the picture is 9 x 9',
        ),
        (
            dict(task='segmentation', resize=[dict(type='Pad', size_divisor=4)]),
            'Pad in the test pipeline of a',
        ),
        (dict(load=None), 'reads pictures with null'),
        (dict(load=dict(type='LoadTiff')), 'reads pictures with LoadTiff'),
        (dict(load=dict(IMAGE, imdecode_backend='tifffile')), 'imdecode_backend=tifffile'),
        (dict(load=dict(IMAGE, imdecode_backend='turbojpeg')), 'turbojpeg, reads JPEG alone'),
        (dict(load=dict(IMAGE, color_type='anycolor')), 'color_type=anycolor'),
        (dict(load=dict(IMAGE, to_float32=True)), 'to_float32=true'),
        (GRAY, "takes images of 1 channels, and the config's loader makes 3"),
        (dict(task='pose'), 'has the task pose; it must be'),
        (dict(outputs=['classes'], task='segmentation'), 'has no output logits'),
        (dict(outputs=['logits', 'more']), 'has no output out1 for more'),
        (dict(input=dict(layout='NHWC', dtype='uint8')), 'this program gives NCHW of float32'),
        (dict(size=None), 'is not what tools/deployment/export.py writes'),
        (DETECTOR, "key 'candidates' not found"),
        (dict(DETECTOR, candidates=dict(kind='places', votes=False)), 'chooses among places'),
        (dict(DETECTOR, candidates=VOTES), 'with_score_voting'),
        (dict(DETECTOR, candidates=dict(VOTES, votes=False, nms=dict(sigma=1))), 'nms has sigma=1'),
    ],
)
def test_refused_networks(program, tmp_path, changes, message):
    picture = tmp_path / 'a.png'
    Image.fromarray(photo(24, 20)).save(picture)
    network, _ = mirror(tmp_path, **{'size': (20, 24), **changes})
    assert message in refusal(program, network, picture)


def test_refused_pictures(program, tmp_path):
    network, _ = mirror(tmp_path, size=(20, 24))
    pixels, picture = Image.fromarray(photo(24, 20)), tmp_path / 'a'
    assert 'There is no picture' in refusal(program, network, picture)
    for suffix in ('png', 'jpeg'):
        pixels.save(picture, suffix)
        whole = picture.read_bytes()
        picture.write_bytes(whole[: len(whole) * 3 // 4])
        assert 'is damaged or incomplete' in refusal(program, network, picture)
    pixels.save(picture, 'png')
    damaged = bytearray(picture.read_bytes())
    damaged[100] ^= 1
    picture.write_bytes(damaged)
    assert 'is damaged or incomplete' in refusal(program, network, picture)
    pixels.save(picture, 'bmp')
    assert 'is neither JPEG nor PNG' in refusal(program, network, picture)
    pixels.convert('CMYK').save(picture, 'jpeg')
    assert 'JPEG of mode CMYK' in refusal(program, network, picture)
    pixels.convert('LA').save(picture, 'png')
    unchanged = mirror(tmp_path, size=(20, 24), load=dict(IMAGE, color_type='unchanged'))[0]
    assert 'PNG of mode LA' in refusal(program, unchanged, picture)


def test_refused_files_and_arguments(program, tmp_path):
    network, _ = mirror(tmp_path, size=(20, 24))
    picture = tmp_path / 'a.png'
    Image.fromarray(photo(24, 20)).save(picture)
    for words, message in [
        ([network], 'It takes a network and a picture'),
        ([network, picture, '--top', '5'], 'There is no option --top'),
        ([network, picture, '--topk', '0'], '--topk must be a whole number of 1 or more, not 0'),
        ([network, picture, '--topk', 'x'], '--topk takes a number, not x'),
        ([network, picture, '--threads'], '--threads takes a number, not nothing'),
        ([network, picture, '--score-threshold', '1.5'], 'must be from 0 to 1, not 1.5'),
        ([tmp_path / 'a.onnx', picture], 'must end in .ncnn'),
        ([tmp_path / 'b.ncnn', picture], 'There is no file'),
    ]:
        assert message in refusal(program, *words)
    assert call(program, f'{network}.param', picture).returncode == 0  # also accepted by open_file
    candidates = dict(VOTES, votes=False, levels=[3], nms_pre=1, score_thr=0, max_per_img=1, min_bbox_size=0)
    outputs = dict(boxes=torch.zeros(1, 2, 4), scores=torch.zeros(1, 2, 3))
    assert 'has 2 boxes' in refusal(program, constants(tmp_path, candidates, outputs, (20, 24)), picture)
    weights = network.with_suffix('.ncnn.bin')
    weights.write_bytes(weights.read_bytes() + bytes(4))
    assert 'has more weights than the layers' in refusal(program, network, picture)
    network.with_suffix('.ncnn.param').write_text('7767517\n1 1\nInput in0 0 1')
    assert 'ncnn cannot open' in refusal(program, network, picture)
    network.with_suffix('.ncnn.json').write_text('{')
    assert 'is not what tools/deployment/export.py writes' in refusal(program, network, picture)
