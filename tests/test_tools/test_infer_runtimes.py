"""infer.py with files for runtimes other than ONNX Runtime: inputs, raw outputs, and missing files."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from ..conftest import ROOT
from ..helpers import needs_export
from .test_infer import LABELS, LOAD, MEAN, STD, detections, infer, make_file, picture_of, results

FLOAT = dict(layout='NCHW', dtype='float32')
NMS = dict(
    iou_threshold=0.5, class_agnostic=False, offset=0, score_threshold=0.0, max_num=-1, split_thr=10000
)
CANDIDATES = dict(
    kind='pairs',
    levels=[2, 1],
    nms_pre=10,
    score_thr=0.05,
    max_per_img=5,
    min_bbox_size=0,
    votes=False,
    nms=NMS,
)


class Constant(infer.runtimes.Session):
    """A runtime for files NAME.npz with constants; its batch size is 1."""

    runtime, packages = 'Constants', 'constants'

    def open(self, threads):
        self.outputs = list(np.load(f'{self.path}.npz').values())
        self.path.read_bytes()

    def compute(self, batch):
        self.batch = batch
        return [values[None] for values in self.outputs]


@pytest.fixture(autouse=True)
def _runtime(monkeypatch):
    monkeypatch.setitem(infer.runtimes.SESSIONS, '.const', Constant)


def make(path, task, outputs, about=()):
    """A file for that runtime, with outputs without batch axis; ``about`` changes the metadata."""
    path.touch()
    np.savez(f'{path}.npz', **{name: np.asarray(value, np.float32) for name, value in outputs.items()})
    known = dict(
        dict(
            task=task, mean=MEAN, std=STD, channels='RGB', pad_divisor=1, labels=LABELS, resize=[], load=LOAD
        ),
        size=(8, 8),
        preprocessed=False,
        outputs=list(outputs),
        input=FLOAT,
    )
    known = {key: value for key, value in {**known, **dict(about)}.items() if value != 'left out'}
    path.with_name(f'{path.name}.json').write_text(json.dumps(known))
    return path


@pytest.mark.parametrize('channels', ['RGB', 'BGR'])
@pytest.mark.parametrize('layout', ['NCHW', 'NHWC'])
@pytest.mark.parametrize('dtype', ['float32', 'uint8'])
def test_pixels_with_normalisation_inside(tmp_path, channels, layout, dtype):
    """RGB in 0 to 255; padding is 0 after normalisation."""
    mean = [10.25, 20.5, 30.0]
    about = dict(
        size=(2, 3), channels=channels, mean=mean, preprocessed=True, input=dict(layout=layout, dtype=dtype)
    )
    network = infer.Network(make(tmp_path / 'x.const', 'backbone', dict(stage0=np.ones(3)), about))
    batch, placement = network.prepare(Image.new('RGB', (2, 1), (50, 60, 70)))
    assert placement.shown == (2, 1) and batch.dtype == dtype
    pixels = batch[0] if layout == 'NHWC' else batch[0].transpose(1, 2, 0)
    nothing = mean[:: 1 if channels == 'RGB' else -1]
    nothing = [round(x) for x in nothing] if dtype == 'uint8' else nothing
    assert pixels.tolist() == [[[50, 60, 70]] * 2 + [nothing], [nothing] * 3]
    network.run(batch)
    assert np.array_equal(network.session.batch, batch)


def test_normalised_pixels_in_the_layout_of_the_file(tmp_path):
    about = dict(size=(1, 2), input=dict(layout='NHWC', dtype='float32'), pad_value=7)
    network = infer.Network(make(tmp_path / 'x.const', 'backbone', dict(stage0=np.ones(3)), about))
    batch, _ = network.prepare(Image.new('RGB', (1, 1), (50, 60, 70)))
    assert batch.dtype == np.float32 and batch.tolist() == [[[[20, 10, 5], [7, 7, 7]]]]


def test_logits_of_a_classifier(tmp_path):
    path = make(tmp_path / 'x.const', 'classification', dict(logits=np.log([0.1, 0.6, 0.3])))
    picture_of(8, 8).save(tmp_path / 'a.png')
    infer.main([str(path), str(tmp_path / 'a.png'), '--out', str(tmp_path / 'out'), '--topk', '2'])
    (result,) = results(tmp_path / 'out')['pictures']
    assert [entry['name'] for entry in result['classes']] == ['cat', 'dog']
    assert [entry['score'] for entry in result['classes']] == pytest.approx([0.6, 0.3])


def test_logits_of_a_segmentor(tmp_path):
    logits = np.zeros((3, 8, 8))
    logits[1, :, :4] = logits[2, :2] = 1
    logits[2, :2, :4] = 2
    path = make(tmp_path / 'x.const', 'segmentation', dict(logits=logits))
    picture_of(8, 8).save(tmp_path / 'a.png')
    infer.main([str(path), str(tmp_path / 'a.png'), '--out', str(tmp_path / 'out')])
    (result,) = results(tmp_path / 'out')['pictures']
    shares = {entry['name']: entry['share'] for entry in result['classes']}
    assert shares == {'cat': 24 / 64, 'background': 24 / 64, 'dog': 16 / 64}


def test_candidates_of_a_detector(tmp_path):
    """Three priors: the second overlaps the first, which keeps both classes; scores are times factors."""
    outputs = dict(
        boxes=[[0, 0, 4, 4], [0, 0, 4, 5], [4, 4, 8, 8]],
        scores=[[0, 0.9, 0.8], [0.04, 0.7, 0], [0.6, 0, 0]],
        factors=[1, 1, 0.75],
    )
    resize = [dict(type='Resize', scale=[8, 8])]
    about = dict(candidates=CANDIDATES, resize=resize)
    path = make(tmp_path / 'x.const', 'detection', outputs, about)
    picture_of(16, 8).save(tmp_path / 'a.png')
    infer.main([str(path), str(tmp_path / 'a.png'), '--out', str(tmp_path / 'out')])
    (result,) = results(tmp_path / 'out')['pictures']
    assert result['objects'] == [
        dict(name='cat', label=1, score=pytest.approx(0.9), box=[0, 0, 8, 4]),
        dict(name='dog', label=2, score=pytest.approx(0.8), box=[0, 0, 8, 4]),
        dict(name='background', label=0, score=pytest.approx(0.45), box=[8, 4, 16, 8]),
    ]
    drawn = Image.open(tmp_path / 'out/a.png').convert('RGB')
    assert drawn.size == (480, 240) and drawn.getpixel((240, 200)) == infer.drawing.color_of(0)


@pytest.mark.parametrize(
    ('about', 'message'),
    [
        (dict(mean='left out'), r'x.const.json, .* lacks mean. Export the network'),
        (dict(outputs='left out'), r'x.const.json does not describe x.const'),
        (dict(input='left out'), 'x.const, lacks input'),
        (dict(candidates='left out'), 'lacks candidates. Export the network'),
        (dict(candidates=dict(kind='queries')), "kind 'queries'; infer.py knows pairs, best_class, places"),
    ],
)
def test_what_a_file_does_not_say(tmp_path, about, message):
    about = {'candidates': CANDIDATES, **about}
    path = make(tmp_path / 'x.const', 'detection', dict(boxes=np.ones((3, 4)), scores=np.ones((3, 3))), about)
    with pytest.raises(infer.pictures.NetworkError, match=message):
        infer.Network(path)


def test_what_cannot_be_opened_or_run(tmp_path):
    path = make(tmp_path / 'x.const', 'detection', dict(boxes=np.ones((2, 4)), scores=np.ones((2, 3))))
    about = tmp_path / 'x.const.json'
    about.write_text(json.dumps(dict(json.loads(about.read_text()), candidates=CANDIDATES)))
    network = infer.Network(path)
    with pytest.raises(infer.pictures.NetworkError, match=r'There are 2 boxes, and the levels have \[2, 1\]'):
        network.run(np.zeros((1, 3, 8, 8), np.float32))
    for text in ('{', None):
        if text is None:
            about.unlink()
        else:
            about.write_text(text)
        with pytest.raises(
            infer.pictures.NetworkError, match=r'x.const.json, which belongs beside x.const and descr'
        ):
            infer.Network(path)
    (tmp_path / 'x.const.npz').unlink()
    with pytest.raises(infer.pictures.NetworkError, match=r'Constants cannot open .*x.const, .*x.const.npz'):
        infer.Network(path)
    with pytest.raises(infer.pictures.NetworkError, match=r'There is no file .*y.ncnn.param'):
        infer.Network(tmp_path / 'y.ncnn')
    with pytest.raises(infer.pictures.NetworkError, match=r'a.png must end in .onnx, .ncnn, .mnn'):
        infer.Network(tmp_path / 'a.png')


def test_runtime_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'MNN', None)
    (tmp_path / 'x.mnn').touch()
    with pytest.raises(
        infer.pictures.NetworkError, match=r'x.mnn is for MNN: .* It needs: python -m pip install MNN'
    ):
        infer.Network(tmp_path / 'x.mnn')


def run_script(*command, cwd):
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_older_name(tmp_path):
    make_file(tmp_path / 'x.onnx', 'detection', detections((2, 2, 6, 6, 0.9, 1)))
    picture_of(8, 8).save(tmp_path / 'a.png')
    script = ROOT / 'tools/deployment/infer_onnx.py'
    done = run_script(script, 'x.onnx', 'a.png', '--out', 'out', '--threads', '1', cwd=tmp_path)
    assert done.returncode == 0 and not done.stderr, done.stderr[-2000:]
    assert results(tmp_path / 'out')['pictures'][0]['objects'][0]['name'] == 'cat'


def test_infer_alone(tmp_path):
    """infer.py without its accompanying files."""
    shutil.copy(ROOT / 'tools/deployment/infer.py', tmp_path)
    done = run_script('infer.py', 'x.onnx', 'a.png', '--out', 'out', cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "infer.py: error: No module named 'choose'. Copy choose.py, drawing.py, pictures.py and runtimes.py "
        'beside it.\n'
    )


@pytest.mark.parametrize(('suffix', 'package'), [('.ncnn', 'ncnn'), ('.mnn', 'MNN')])
@pytest.mark.parametrize('name', ['classifier', 'retinanet'])
@needs_export
def test_in_a_runtime_of_phones(name, suffix, package, tmp_path):
    """Results for an image equal those of an ONNX file with the selection inside."""
    pytest.importorskip(package)
    torch = pytest.importorskip('torch')
    for codebase in ('mmdet', 'mmpretrain', 'pnnx' if suffix == '.ncnn' else 'onnxscript'):
        pytest.importorskip(codebase)
    from mmmobilemamba.deployment import build, raw_graphs
    from mmmobilemamba.deployment.targets import TARGETS

    from ..test_deployment.networks import graph_of

    model, graph, about = graph_of(name, tmp_path)
    size = (64, 64) if name == 'classifier' else (160, 224)
    picture = picture_of(12, 9).resize(size[::-1], Image.Resampling.BICUBIC)
    about.update(size=size, preprocessed=False, precision='float32', input=FLOAT)
    if name == 'retinanet':
        about['resize'] = []
    image = torch.zeros(2, 3, *size)
    raw = raw_graphs.make_raw_graph(model, build.task_of(model), image)
    about.update(outputs=raw.output_names, candidates=getattr(raw, 'candidates', None))
    path = tmp_path / f'network{suffix}'
    TARGETS[suffix].write(raw, image, path, about)
    network = infer.Network(path, threads=1)
    batch, placement = network.prepare(picture)
    found = network.found(network.run(batch), 0, placement)
    with torch.no_grad():
        outputs = dict(zip(graph.output_names, (x.numpy() for x in graph(torch.from_numpy(batch)))))
    expected = network.found(outputs, 0, placement)
    assert len(found['scores']) == len(expected['scores']) >= 5
    np.testing.assert_allclose(found['scores'], expected['scores'], atol=1e-4)
    first = found['labels'][0], *found.get('boxes', [[]])[0]
    assert first == pytest.approx((expected['labels'][0], *expected.get('boxes', [[]])[0]), abs=0.05)
