"""The browser demo in headless Chromium: results equal to those of infer.py, and error messages."""

import shutil

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
webdriver = pytest.importorskip('selenium.webdriver', reason='needs selenium, chromium and chromedriver')

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

from ..conftest import load_script  # noqa: E402
from ..test_tools.test_infer import detections, infer, make_file, picture_of  # noqa: E402
from .browser import (  # noqa: E402
    COLOR,
    FAKE_CAMERA,
    PIXELS,
    WEB,
    Page,
    calibrate,
    compare,
    is_close,
    serving,
    smooth_picture,
)

pytestmark = pytest.mark.deploy


@pytest.fixture(scope='module')
def served(tmp_path_factory):
    """A server of the page, with a minimal detector of two objects as a model."""
    path = tmp_path_factory.mktemp('models') / 'two objects.onnx'
    outputs = detections((2, 1, 6, 5, 0.9, 1), (0, 0, 3, 8, 0.4, 2), masks=np.ones((2, 4, 4)))
    with serving(files=[make_file(path, 'detection', outputs)]) as address:
        page = Page(address, FAKE_CAMERA, '--use-fake-ui-for-media-stream')
        yield page
        page.close()


@pytest.fixture
def page(served):
    """The page, freshly opened; checks that it logs no errors in the console."""
    served.open()
    served.errors()
    yield served
    assert served.errors() == []


def pixels_of(picture):
    """The pixels of an image in the format of the page's modules."""
    return dict(data=np.asarray(picture).ravel().tolist(), width=picture.width, height=picture.height)


FILTERS = ('nearest', 'box', 'bilinear', 'hamming', 'bicubic', 'lanczos')
RESIZE = """
const { resize } = await import('/resize.js');
const pixels = { ...a[0], data: Uint8Array.from(a[0].data) };
return Array.from(resize(pixels, ...a[1]).data);
"""


@pytest.mark.parametrize('how', ['cv2 bilinear', *(f'pillow {name}' for name in FILTERS)])
def test_resizes_to_the_same_pixels(page, how):
    picture = picture_of(40, 52)
    for new in ((7, 5), (20, 31), (40, 26), (123, 80), (64, 12), (36, 40), (1, 1), (40, 52)):
        found = np.array(page.evaluate(RESIZE, pixels_of(picture), [*new, *how.split()]))
        expected = infer.pictures.resize(np.asarray(picture), *new, *how.split()).ravel()
        if 'pillow' in how and int(PIL.__version__.split('.')[0]) < 13:  # different rounding
            assert np.abs(found - expected).mean() < 1
            continue
        assert np.array_equal(found, expected), new


def test_sizes_of_steps(page):
    random = np.random.default_rng(0)
    steps = [
        dict(type='Resize', scale=[224, 224], keep_ratio=True),
        dict(type='Resize', scale=[1333, 800], keep_ratio=True),
        dict(type='Resize', scale=[80, 100]),
        dict(type='Resize', scale=25),
        *(dict(type='ResizeEdge', scale=292, edge=edge) for edge in ('short', 'long', 'width', 'height')),
        dict(type='ResizeEdge', scale=7),
    ]
    cases = [(*size, step) for size in random.integers(1, 2000, (100, 2)).tolist() for step in steps]
    code = "const { resizedSize } = await import('/prepare.js'); return a[0].map((c) => resizedSize(...c));"
    assert page.evaluate(code, cases) == [list(infer.pictures.resized_size(*case)) for case in cases]


PREPARE = """
const { prepare } = await import('/prepare.js');
const { input, placement } = prepare(a[0], 'x', { ...a[1], data: Uint8Array.from(a[1].data) });
return { ...input, data: Array.from(input.data), placement };
"""


@pytest.mark.parametrize(
    'about',
    [
        dict(size=None, pad_divisor=32, channels='BGR'),
        dict(size=(64, 80), resize=[dict(type='Resize', scale=[48, 64], keep_ratio=True)]),
        dict(size=None, preprocessed=True, pad_divisor=16, channels='BGR', mean=(10.4, 20.6, 30.5)),
        dict(
            size=(30, 30),
            resize=[
                dict(type='ResizeEdge', scale=35, edge='short', backend='pillow', interpolation='bicubic'),
                dict(type='CenterCrop', crop_size=30),
            ],
        ),
        dict(size=(50, 50), resize=[dict(type='CenterCrop', crop_size=[27, 50])]),
    ],
)
def test_prepares_the_same_input(page, tmp_path, about):
    network = infer.Network(make_file(tmp_path / 'x.onnx', 'backbone', **about), threads=1)
    picture = picture_of(40, 37)
    batch, placement = network.prepare(picture)
    found = page.evaluate(PREPARE, network.about, pixels_of(picture))
    assert (found['type'], found['dims']) == (batch.dtype.name, list(batch.shape))
    assert np.array_equal(np.array(found['data'], batch.dtype), batch.ravel())
    for name, value in placement._asdict().items():
        assert found['placement'][name] == pytest.approx(list(value)), name


def test_reads_what_the_file_says(page, tmp_path):
    """Also from files with weights, with packed or unpacked shapes, and from files truncated anywhere."""
    path = make_file(tmp_path / 'x.onnx', 'classification', dict(scores=np.ones(2)), labels=['é', 'b'])
    model = onnx.load(path)
    for shape in ((3, 4, 5), (300,), ()):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(shape, np.float32), str(shape)))
    content = model.SerializeToString()
    read = """
        const { describe } = await import('/metadata.js');
        const { about, weights, model } = describe(Uint8Array.from(a[0]), 'x');
        return { about, weights, nodes: model.nodes, shapes: Object.fromEntries(model.shapes) };
    """
    found = page.evaluate(read, list(content))
    assert found['about'] == infer.Network(path).about
    assert found['weights'] == 3 * 4 * 5 + 300 + 1
    for shape in ((3, 4, 5), (300,), ()):
        assert found['shapes'][str(shape)] == list(shape)
    for node, expected in zip(found['nodes'], model.graph.node):
        assert (node['operator'], node['inputs']) == (expected.op_type, list(expected.input))
        assert node['outputs'] == list(expected.output)
        integers = {entry.name: entry.i for entry in expected.attribute if entry.type == entry.INT}
        assert node['integers'] == integers
    assert len(found['nodes']) == len(model.graph.node) > 0
    refuses = """
        const { readModel } = await import('/metadata.js');
        return a[1].filter((end) => {
          try { return !readModel(Uint8Array.from(a[0].slice(0, end))).metadata.size; } catch { return true; }
        });
    """
    ends = list(range(len(content)))
    assert page.evaluate(refuses, list(content), ends) == ends


def test_boxes_and_masks_by_hand(page, tmp_path):
    """An image of 20 x 10 px in an input of 8 x 8, of which 4 rows are padding."""
    masks = np.random.default_rng(0).random((4, 28, 28))
    rows = [(2, 1, 6, 3.5, 0.9, 1), (-3, 0.3, 3, 9, 0.4, 2), (1, 5, 7, 8, 0.8, 2), (0, 0, 1, 1, 0, 1)]
    step = dict(type='Resize', scale=[8, 8], keep_ratio=True)
    path = make_file(tmp_path / 'x.onnx', 'detection', detections(*rows, masks=masks), resize=[step])
    found, expected = compare(page, path, picture_of(20, 10), tmp_path)
    assert found == [
        dict(
            name='cat',
            label=1,
            score=pytest.approx(0.9),
            box=[5, 2.5, 15, 8.75],
            mask_area=expected[0]['mask_area'],
        ),
        dict(
            name='dog',
            label=2,
            score=pytest.approx(0.4),
            box=[0, 0.75, 7.5, 10],
            mask_area=expected[1]['mask_area'],
        ),
    ]
    assert expected[1]['mask_area'] > 10
    assert page.rows() == [['cat', '0.90'], ['dog', '0.40']]
    assert page('canvas').get_attribute('aria-label') == 'picture.png: 2 objects'
    assert page('status').text == '2 objects' and page('times').text.startswith('network ')


def test_classes_of_pixels_by_hand(page, tmp_path):
    classes = np.random.default_rng(0).integers(0, 3, (8, 8), np.int32)
    step = dict(type='Resize', scale=[8, 8], keep_ratio=True)
    path = make_file(tmp_path / 'x.onnx', 'segmentation', dict(classes=classes), resize=[step])
    found, expected = compare(page, path, picture_of(19, 31), tmp_path)
    assert len(found) == 3
    for one, other in zip(found, expected):
        assert one == dict(other, share=pytest.approx(other['share']))
    assert [row[0] for row in page.rows()] == [entry['name'] for entry in expected]
    classes[:] = 0
    classes[:4, 6:] = 1
    path = make_file(tmp_path / 'x.onnx', 'segmentation', dict(classes=classes), resize=[step])
    compare(page, path, Image.new('RGB', (16, 8), 'white'), tmp_path)
    assert page.evaluate(COLOR, 0.8, 0.2) == tinted(1)
    assert page.evaluate(COLOR, 0.7, 0.2) == [255] * 3  # the background


def test_more_classes_than_the_file_names(page, tmp_path):
    logits = np.log(np.array([0.1, 0.6, 0.3], np.float32))
    outputs = dict(logits=logits, scores=np.float32([0.6]), labels=np.array([1]))
    path = make_file(tmp_path / 'x.onnx', 'classification', outputs)
    found, _ = compare(page, path, picture_of(8, 8), tmp_path)
    assert [entry['name'] for entry in found] == ['cat', 'dog', 'background']
    assert [entry['score'] for entry in found] == pytest.approx([0.6, 0.3, 0.1])
    assert page.rows() == [['cat', '60.0%'], ['dog', '30.0%'], ['background', '10.0%']]
    widths = [bar.size['width'] for bar in page.browser.find_elements(By.CSS_SELECTOR, '.fill, .track')]
    assert np.array(widths[1::2]) / widths[::2] == pytest.approx([0.6, 0.3, 0.1], abs=0.01)


def test_backbone(page, tmp_path):
    page.choose('model', make_file(tmp_path / 'x.onnx', 'backbone', labels=[]))
    picture_of(8, 8).save(tmp_path / 'a.png')
    page.choose('picture', tmp_path / 'a.png')
    assert page.results() == dict(maps=dict(stage0=[3, 8, 8]))
    assert page.rows() == [['stage0', '3 \u00d7 8 \u00d7 8']]


def tinted(label):
    """White blended with half of a class's colour."""
    return pytest.approx([255 + (side - 255) * 128 / 255 for side in infer.drawing.color_of(label)], abs=2)


def test_model_by_address_and_threshold(served, tmp_path):
    """The slider updates drawing and list without running the network again."""
    page = served.open('?model=models/two%20objects.onnx')
    assert page('model-name').text == 'two objects.onnx'
    facts = page('facts').get_attribute('textContent')
    for words in (
        'detection, 3 classes',
        '8 \u00d7 8 px, RGB',
        'Resizingnone',
        'Mean10, 20, 30',
        'WebAssembly',
    ):
        assert words in facts
    assert page('status').text == 'Choose a picture.'
    Image.new('RGB', (8, 8), 'white').save(tmp_path / 'a.png')
    page.choose('picture', tmp_path / 'a.png')
    assert [row[0] for row in page.rows()] == ['cat', 'dog']
    assert page.evaluate(COLOR, 5.5 / 8, 3.5 / 8) == tinted(1)  # inside a mask that fills its box
    assert page.evaluate(COLOR, 6.5 / 8, 3.5 / 8) == page.evaluate(COLOR, 5.5 / 8, 5.5 / 8) == [255] * 3
    dog = list(infer.drawing.color_of(2))
    assert dog in page.evaluate(PIXELS)
    for _ in range(11):  # steps of 0.01, from 0.3
        page('threshold').send_keys(Keys.ARROW_RIGHT)
    assert page('threshold-value').text == '0.41'
    assert page.rows() == [['cat', '0.90']]
    assert dog not in page.evaluate(PIXELS)
    page('threshold').send_keys(Keys.END)
    assert page.rows() == [] and page('status').text == 'No object with a score of 1.00 or more'


def test_samples(tmp_path):
    """Networks and pictures that the server offers run at a click, and by their addresses."""
    Image.new('RGB', (8, 8), 'white').save(tmp_path / 'a b.png')
    model = make_file(
        tmp_path / 'two objects.onnx', 'detection', detections((2, 1, 6, 5, 0.9, 1), (0, 0, 3, 8, 0.4, 2))
    )
    with serving(files=[model, tmp_path / 'a b.png']) as address:
        page = Page(address)
        page.open()
        for kind, name in (('model', 'two objects.onnx'), ('picture', 'a b.png')):
            (button,) = page(f'{kind}-samples').find_elements('tag name', 'button')
            assert button.text == name
            button.click()
            page.settle()
            assert page(f'{kind}-name').text == name
        assert [row[0] for row in page.rows()] == ['cat', 'dog']
        page.open('?model=models/two%20objects.onnx&picture=pictures/a%20b.png')
        assert [row[0] for row in page.rows()] == ['cat', 'dog']
        page.open('?picture=pictures/none.png')
        assert 'The server has no file pictures/none.png (404).' in page('message').text
        page.close()


def test_upright_and_opaque(page, tmp_path):
    """The EXIF orientation is applied, and transparency, which canvases round, is dropped."""
    pixels = np.full((8, 8, 3), 200, np.uint8)
    pixels[:4] = 0
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate clockwise
    Image.fromarray(pixels).save(tmp_path / 'a.jpg', exif=exif, quality=100)
    transparent = np.dstack([np.where(pixels, 60, 0), np.full((8, 8), 255)]).astype(np.uint8)
    transparent[2:, :2] = 0
    transparent[:, 4:, 3] = 128
    Image.fromarray(transparent, 'RGBA').save(tmp_path / 'b.png')
    read = """
        const { readPicture } = await import('/picture.js');
        const response = await fetch(a[0]);
        return Array.from((await readPicture(await response.blob())).pixels.data);
    """
    for name in ('a.jpg', 'b.png'):
        script = load_script('tools/deployment/web/serve.py')
        with serving(script, [tmp_path / name]) as address:
            page.browser.get(address)
            found = page.evaluate(read, f'/models/{name}')
        with Image.open(tmp_path / name) as file:
            expected = np.asarray(infer.pictures.upright(file)).ravel()
        assert np.abs(np.array(found) - expected).max() <= (1 if name == 'b.png' else 0)


def test_reads_as_the_file_says(page, tmp_path):
    """A rotated photo is turned and converted to gray depending on the file, again for each network."""
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth_picture(8, 6).save(tmp_path / 'a.jpg', exif=exif, quality=100)
    page.choose('picture', tmp_path / 'a.jpg')
    for channels, color in (
        ('RGB', 'color'),
        ('RGB', 'color_ignore_orientation'),
        ('gray', 'grayscale'),
        ('gray', 'grayscale_ignore_orientation'),
    ):
        count = 1 if channels == 'gray' else 3
        about = dict(channels=channels, mean=[0.0] * count, std=[1.0] * count, size=None, labels=[])
        load = dict(type='PillowLoadImageFromFile', color_type=color)
        path = make_file(tmp_path / 'x.onnx', 'backbone', load=load, **about)
        page.choose('model', path)
        network = infer.Network(path)
        batch, _ = network.prepare(Image.open(tmp_path / 'a.jpg'))
        assert page.results() == dict(maps=dict(stage0=list(batch.shape[1:])))
        read = """
            const { prepare } = await import('/prepare.js');
            const { readPicture } = await import('/picture.js');
            const file = new Blob([Uint8Array.from(a[1])]);
            return Array.from(prepare(a[0], 'x', (await readPicture(file, a[0].load)).pixels).input.data);
        """
        found = page.evaluate(read, network.about, list((tmp_path / 'a.jpg').read_bytes()))
        assert np.abs(np.array(found) - batch.ravel()).max() <= 1


@pytest.mark.parametrize(
    ('about', 'message'),
    [
        (
            dict(load=dict(type='LoadBands')),
            'reads pictures with {"type":"LoadBands"}, which this page cannot',
        ),
        (
            dict(load=dict(type='LoadImageFromFile', imdecode_backend='pillow')),
            'a.png cannot be read as in the training: mmcv reads 16 bits of gray with Pillow',
        ),
        (dict(channels='BGRA', mean=[0] * 4, std=[1] * 4), 'x.onnx takes images of BGRA, which this page'),
    ],
)
def test_pictures_that_are_read_otherwise(page, tmp_path, about, message):
    Image.fromarray(np.full((8, 8), 9999, np.uint16)).save(tmp_path / 'a.png')
    page.choose('picture', tmp_path / 'a.png')
    page.choose('model', make_file(tmp_path / 'x.onnx', 'backbone', **about))
    assert message in page('message').text and not page('results').is_displayed()


def test_pads_to_the_same_pixels(page, tmp_path):
    steps = [
        dict(type='Resize', scale=[24, 30], keep_ratio=True),
        dict(type='Pad', size=[32, 30], pad_val=dict(img=[114, 113, 112])),
        dict(type='Pad', pad_to_square=True, pad_val=7),
        dict(type='Pad', size_divisor=20, pad_val=dict(img=5)),
    ]
    network = infer.Network(make_file(tmp_path / 'x.onnx', 'backbone', size=None, resize=steps))
    batch, _ = network.prepare(picture_of(40, 37))
    found = page.evaluate(PREPARE, network.about, pixels_of(picture_of(40, 37)))
    assert found['dims'] == list(batch.shape) == [1, 3, 40, 40]
    assert np.array_equal(np.array(found['data'], np.float32), batch.ravel())


def test_files_that_are_dropped(page, tmp_path):
    """A network and an image, dropped together."""
    picture_of(8, 8).save(tmp_path / 'a.png')
    path = make_file(tmp_path / 'x.onnx', 'backbone')
    drop = """
        const files = new DataTransfer();
        for (const [name, bytes] of a) files.items.add(new File([Uint8Array.from(bytes)], name));
        const page = document.getElementById('figure');
        const options = { dataTransfer: files, bubbles: true, cancelable: true };
        return page.dispatchEvent(new DragEvent('drop', options));
    """
    files = (tmp_path / 'a.png', path)
    assert not page.evaluate(drop, *[[file.name, list(file.read_bytes())] for file in files])
    page.settle()
    assert page.results() == dict(maps=dict(stage0=[3, 8, 8]))


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """A function that exports a small network of networks.py, with random weights, by name."""
    for codebase in ('mmpretrain', 'mmdet', 'mmseg'):
        pytest.importorskip(codebase)
    from mmmobilemamba.deployment import build, onnx_file

    from . import networks

    def export(name):
        folder = tmp_path_factory.mktemp(name)
        config, checkpoint = networks.config_of(name), networks.checkpoint_of(name, folder)
        about = build.describe(config, build.task_of(build.load_model(config, checkpoint)))
        about.update(size=build.input_size(about), preprocessed=False)
        calibrate(config, checkpoint, about['size'])
        graph = build.make_graph(build.load_model(config, checkpoint), about['task']).eval()
        proto = onnx_file.to_onnx(graph, torch.zeros(2, 3, *about['size']), dynamic_sizes=False)
        onnx_file.write(proto, folder / f'{name}.onnx', about)
        return folder / f'{name}.onnx'

    return export


@pytest.mark.parametrize('name', ['classifier', 'retinanet', 'ssdlite', 'mask_rcnn', 'sem_fpn'])
def test_exported_networks(page, exported, tmp_path, name):
    """Networks of every kind, on images of various sizes: classes, scores, boxes and masks."""
    path = exported(name)
    height, width = infer.Network(path).about['size']
    for size in ((width, height), (333, 201), (50, 71)):
        found, expected = compare(page, path, smooth_picture(*size), tmp_path, threshold=0.05)
        assert len(expected) == 5 if name == 'classifier' else len(expected) > 1
        if name in ('classifier', 'sem_fpn'):
            assert all(map(is_close, found, expected))
        else:  # order and suppression of objects with nearly equal scores may differ
            same = [any(is_close(one, other) for one in found) for other in expected]
            assert sum(same) >= 0.95 * len(same) > 20


def test_threads(served, tmp_path):
    """On a machine with four cores, the page uses two and returns the same results."""
    concurrency = 'Emulation.setHardwareConcurrencyOverride'
    served.browser.execute_cdp_cmd(concurrency, dict(hardwareConcurrency=4))
    try:
        page = served.open()
        path = make_file(tmp_path / 'x.onnx', 'detection', detections((2, 1, 6, 5, 0.9, 1)))
        (found,), _ = compare(page, path, picture_of(8, 8), tmp_path)
        assert found['box'] == [2, 1, 6, 5]
        assert page('facts').get_attribute('textContent').endswith('WebAssembly, 2 threads')
    finally:
        served.browser.execute_cdp_cmd(concurrency, dict(hardwareConcurrency=1))


def others_file(path):
    """An ONNX file from another source, with different metadata."""
    make_file(path, 'backbone')
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {'author': 'somebody'})
    onnx.save(model, path)


def broken_file(path):
    """A file with an operator that does not exist."""
    make_file(path, 'backbone')
    model = onnx.load(path)
    model.graph.node[0].op_type = 'Nonsense'
    onnx.save(model, path)


@pytest.mark.parametrize(
    ('write', 'message'),
    [
        (lambda path: path.write_text('no network at all'), 'x.onnx is not an ONNX file, or it is cut off.'),
        (lambda path: path.touch(), 'x.onnx is not an ONNX file, or it is cut off.'),
        (
            others_file,
            'x.onnx is an ONNX file, but its metadata mmmobilemamba lacks task, mean, std, channels, ',
        ),
        (
            lambda path: make_file(path, 'pose'),
            'x.onnx has the task pose; it must be backbone or classification',
        ),
        (
            lambda path: make_file(path, 'backbone', custom_ops=dict(domain='mmmobilemamba', version=1)),
            'x.onnx has operators that a browser does not have. Export the network without --custom-ops.',
        ),
        (broken_file, 'onnxruntime-web cannot open x.onnx: '),
    ],
)
def test_networks_that_cannot_be_used(page, tmp_path, write, message):
    write(tmp_path / 'x.onnx')
    page.choose('model', tmp_path / 'x.onnx')
    assert message in page('message').text
    assert page('status').text == 'Choose a network and a picture.'
    page.choose('model', make_file(tmp_path / 'x.onnx', 'backbone'))
    assert page('message').text == '' and page('status').text == 'Choose a picture.'
    page.errors()


def test_pictures_that_cannot_be_used(page, tmp_path):
    page.choose('model', make_file(tmp_path / 'x.onnx', 'backbone'))
    (tmp_path / 'notes.png').write_text('no picture')
    page.choose('picture', tmp_path / 'notes.png')
    assert page('message').text.startswith('notes.png is no picture that this browser can read, such as PNG')
    picture_of(20, 8).save(tmp_path / 'large.png')
    page.choose('picture', tmp_path / 'large.png')
    assert (
        'x.onnx takes images of 8 x 8 px (height x width), but the picture is 8 x 20 px'
        in page('message').text
    )
    assert not page('results').is_displayed() and page('canvas').is_displayed()
    picture_of(6, 8).save(tmp_path / 'small.png')  # would be padded for a backbone
    page.choose('picture', tmp_path / 'small.png')
    assert page('message').text == ''
    page.choose('model', make_file(tmp_path / 'x.onnx', 'classification'))
    assert 'but the picture is 8 x 6 px after' in page('message').text
    page.choose('model', make_file(tmp_path / 'y.onnx', 'backbone', resize=[dict(type='Pad', size=3)]))
    assert 'The step {"type":"Pad","size":3} is not supported' in page('message').text


@pytest.mark.parametrize(
    ('address', 'message'),
    [
        ('models/none.onnx', 'The server has no file models/none.onnx (404).'),
        ('http://example.org/x.onnx', 'http://example.org/x.onnx is on another server.'),
    ],
)
def test_addresses_that_cannot_be_used(served, address, message):
    page = served.open(f'?model={address}')
    assert message in page('message').text


def test_camera(page, tmp_path):
    """Frames are processed until the camera is stopped; the last one remains."""
    path = make_file(tmp_path / 'x.onnx', 'backbone', size=None, resize=[dict(type='Resize', scale=16)])
    page.choose('model', path)
    assert page('camera').text == 'Use camera'
    page.evaluate(
        'const devices = navigator.mediaDevices, ask = devices.getUserMedia.bind(devices);'
        'devices.getUserMedia = async (wish) => (window.stream = await ask(wish));'
    )
    page('camera').click()
    page.wait_for(lambda: page('results').is_displayed())
    assert page.evaluate('return window.stream.active') is True
    assert page('camera').text == 'Stop camera'
    assert page.results() == dict(maps=dict(stage0=[3, 16, 16]))
    image = "return document.getElementById('canvas').toDataURL();"
    first = page.evaluate(image)
    page.wait_for(lambda: page.evaluate(image) != first)
    page('camera').click()
    page.settle()
    assert page('camera').text == 'Use camera' and page('canvas').is_displayed()
    assert page.evaluate('return window.stream.active') is False
    last = page.evaluate(f'await new Promise((done) => setTimeout(done, 300)); {image}')
    assert last == page.evaluate(image)
    colors = 'new Set((() => {' + PIXELS + '})().map(String)).size'
    assert page.evaluate(f'return {colors};') > 1  # the image is not blank
    page('camera').click()
    picture_of(8, 8).save(tmp_path / 'a.png')
    page.choose('picture', tmp_path / 'a.png')  # also stops the camera
    last = page.evaluate(f'await new Promise((done) => setTimeout(done, 300)); {image}')
    assert page('camera').text == 'Use camera' and last == page.evaluate(image)
    assert page('canvas').get_attribute('aria-label') == 'a.png: 1 map'


@pytest.mark.parametrize(
    ('switches', 'message'),
    [
        ((), 'There is no camera on this machine.'),
        ((FAKE_CAMERA, '--use-fake-ui-for-media-stream=deny'), 'The browser refused the camera. Allow it in'),
    ],
)
def test_no_camera(switches, message):
    with serving() as address:
        page = Page(address, *switches)
        try:
            page.open()('camera').click()
            page.wait_for(lambda: page('message').is_displayed())
            assert message in page('message').text and page('camera').text == 'Use camera'
        finally:
            page.close()


def test_without_the_runtime(page, tmp_path):
    """The page says how to fetch the runtime or, if opened as a file, how to serve the page."""
    web = shutil.copytree(WEB, tmp_path / 'web', ignore=shutil.ignore_patterns('ort'))
    script = load_script(web / 'serve.py')
    with serving(script) as address:
        page.browser.get(address)
        page.choose('model', make_file(tmp_path / 'x.onnx', 'backbone'))
        command = 'Fetch it with "python tools/deployment/web/serve.py --fetch" and reload the page.'
        assert page('message').text == f'onnxruntime-web is not there yet. {command}'
    page.browser.get((web / 'index.html').as_uri())
    page.wait_for(lambda: page('unserved').is_displayed())
    assert 'python tools/deployment/web/serve.py and open' in page('unserved').text
    assert not page('page').is_displayed()
    page.errors()


def test_nothing_leaves_the_page(page):
    """No requests to other servers, even on this machine; threads can share memory."""
    assert page.evaluate('return window.crossOriginIsolated') is True
    asks = 'return fetch(a[0], { mode: "no-cors" }).then(() => "answered", () => "refused");'
    with serving() as other:
        assert page.evaluate(asks, other) == 'refused'
    assert page.evaluate(asks, page.address) == 'answered'
    assert 'violates' in ''.join(page.errors())


def test_keyboard(page):
    """All controls can be reached and have a label."""
    reached = []
    for _ in range(4):
        webdriver.ActionChains(page.browser).send_keys(Keys.TAB).perform()
        reached.append(page.browser.switch_to.active_element.accessible_name)
    assert reached == ['Choose network', 'Run on', 'Choose picture', 'Use camera']
