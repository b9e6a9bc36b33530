"""Metrics of a file, with the data and evaluators of the config, equal those of PyTorch."""

import functools
import json
import pickle
import re

import numpy as np
import pytest
import torch

pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
pytest.importorskip('mmpretrain')
pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from mmdet.structures import DetDataSample
from mmengine.config import Config
from PIL import Image

from mmmobilemamba.deployment import onnx_file, raw_graphs

from ..conftest import load_script, noise_for
from ..helpers import needs_export
from .networks import checkpoint_of, config_of, graph_of

tool = load_script('tools/deployment/evaluate.py')
SIZES = dict(classifier=(64, 64), retinanet=(224, 224), sem_fpn=(224, 224), mask_rcnn=(160, 192))


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('scenes')
    load_script('tools/dataset_converters/digits_scenes.py').main([str(folder), '--train', '1', '--val', '3'])
    return folder


@pytest.fixture(scope='module')
def export(tmp_path_factory):
    """A function of a network's name that exports it once, to a file and its checkpoint."""

    @functools.cache
    def export(name):
        folder = tmp_path_factory.mktemp('exported')
        _, graph, about = graph_of(name, folder, **(dict(with_logits=True) if name == 'sem_fpn' else {}))
        size = SIZES[name]
        about.update(size=size, preprocessed=False)
        path = folder / f'{name}.onnx'
        onnx_file.write(onnx_file.to_onnx(graph, noise_for((2, 3, *size), 0), False), path, about)
        return path, checkpoint_of(name, folder)

    return export


@pytest.mark.parametrize(
    ('name', 'root', 'key'), [('classifier', 'imagenet', 'accuracy/top1'), ('sem_fpn', 'ade', 'mIoU')]
)
@needs_export
def test_same_scores_as_pytorch(name, root, key, scenes, export, tmp_path, capsys):
    config = config_of(name)
    for loader in (config.test_dataloader, config.val_dataloader):
        loader.dataset.data_root = str(scenes / root)
        loader.update(num_workers=0, persistent_workers=False)
    config.dump(tmp_path / 'config.py')
    path, checkpoint = export(name)
    work_dir = ['--work-dir', str(tmp_path / 'work')]
    tool.main([str(tmp_path / 'config.py'), str(path), '--checkpoint', str(checkpoint), *work_dir])
    table = capsys.readouterr().out.split('| engine |')[2].splitlines()  # the second table has both engines
    column = [cell.strip() for cell in table[0].split('|')].index(key)
    rows = {row.split('|')[1].strip(): float(row.split('|')[column + 2]) for row in table[2:4]}
    assert rows['ONNX Runtime'] == pytest.approx(rows['PyTorch'], abs=0.1)
    assert rows['PyTorch'] > 0


METRICS = dict(
    classifier=(
        'imagenet',
        [
            dict(type='Accuracy', topk=(1, 5)),
            dict(type='SingleLabelMetric', average=None),
            dict(type='ConfusionMatrix'),
            dict(type='MultiLabelMetric', average=None, topk=1),
            dict(type='AveragePrecision', average=None),
            dict(type='DumpResults', out_file_path='dumped.pkl'),
        ],
    ),
    retinanet=(
        'coco',
        [
            dict(type='CocoMetric', ann_file='coco/annotations/instances_val.json', classwise=True),
            dict(type='VOCMetric'),
            dict(type='DumpDetResults', out_file_path='dumped.pkl'),
        ],
    ),
    sem_fpn=(
        'ade',
        [
            dict(type='IoUMetric', iou_metrics=['mIoU', 'mDice', 'mFscore'], output_dir='maps'),
            dict(type='DumpResults', out_file_path='dumped.pkl'),
        ],
    ),
)


@pytest.mark.parametrize('name', list(METRICS))
@needs_export
def test_any_metric(name, scenes, export, tmp_path, monkeypatch, capsys):
    """Metrics that return a number per class, a matrix, many numbers or none, and lists of metrics."""
    root, metrics = METRICS[name]
    monkeypatch.chdir(tmp_path)
    config = config_of(name)
    config.test_dataloader.dataset.data_root = str(scenes / root)
    config.test_dataloader.update(num_workers=0, persistent_workers=False)
    for metric in metrics:
        if 'ann_file' in metric:
            metric['ann_file'] = str(next((scenes / root).glob('annotations/*val*.json')))
    config.test_evaluator = metrics
    config.dump('config.py')
    path, checkpoint = export(name)
    tool.main(['config.py', str(path), '--checkpoint', str(checkpoint), '--work-dir', 'work'])
    output = capsys.readouterr().out
    assert f'All numbers: {tmp_path / "work/scores.json"}' in output
    scores = json.loads((tmp_path / 'work/scores.json').read_text())
    assert list(scores) == ['ONNX Runtime', 'PyTorch']
    found, expected = scores.values()
    assert list(found) == list(expected)
    for key in found:
        assert np.shape(found[key]) == np.shape(expected[key])
        np.testing.assert_allclose(found[key], expected[key], atol=0.5, err_msg=key)  # in percentage points
    if name == 'classifier':
        lines = [line.strip('| ').split(' | ') for line in output.splitlines() if line.startswith('| ')]
        rows = dict(zip(*lines[:2]))
        assert len(found['single-label/precision_classwise']) == len(found['multi-label/AP_classwise']) == 10
        mean = np.mean(found['single-label/recall_classwise'])
        assert rows['single-label/recall_classwise'] == f'mean of 10: {mean:.4f}'
        assert np.shape(found['confusion_matrix/result']) == (10, 10)
        assert rows['confusion_matrix/result'] == '10 x 10 values'
        assert rows['accuracy/top5'] == f'{found["accuracy/top5"]:.4f}'
    # The files of both engines are kept.
    dumps = [pickle.loads((tmp_path / f'dumped{end}.pkl').read_bytes()) for end in ('', '_pytorch')]
    assert len(dumps[0]) == len(dumps[1]) > 0
    if name == 'sem_fpn':
        maps = [len(list((tmp_path / folder).iterdir())) for folder in ('maps', 'maps_pytorch')]
        assert maps == [3, 3]
        assert dumps[0][0]['seg_logits']['data'].shape == dumps[1][0]['seg_logits']['data'].shape


@pytest.mark.parametrize(
    ('name', 'layout'), [('classifier', 'NHWC'), ('retinanet', 'NCHW'), ('sem_fpn', 'NCHW')]
)
@needs_export
def test_raw_outputs_of_another_runtime(name, layout, scenes, tmp_path, monkeypatch, capsys):
    """Raw outputs with batch size 1, as in mobile runtimes: logits, and boxes with scores of all classes."""
    root, size = METRICS[name][0], SIZES[name]
    model, _, about = graph_of(name, tmp_path)
    raw = raw_graphs.make_raw_graph(model, about['task'], noise_for((1, 3, *size), 0), ('logits',))
    shapes = set()

    class Raw(tool.runtimes.Session):
        runtime, packages = 'Raw', 'raw'

        def open(self, threads):
            pass

        def compute(self, batch):
            shapes.add(batch.shape)
            image = torch.from_numpy(batch)
            with torch.no_grad():
                found = raw(image if layout == 'NCHW' else image.permute(0, 3, 1, 2).contiguous())
            return [x.numpy() for x in found]

    monkeypatch.setitem(tool.runtimes.SESSIONS, '.raw', Raw)
    about.update(size=size, preprocessed=False, outputs=raw.output_names, precision='float16')
    about.update(input=dict(layout=layout, dtype='float32'), candidates=getattr(raw, 'candidates', None))
    (tmp_path / 'x.raw').touch()
    (tmp_path / 'x.raw.json').write_text(json.dumps(about))
    config = config_of(name)
    config.test_dataloader.dataset.data_root = str(scenes / root)
    config.test_dataloader.update(num_workers=0, persistent_workers=False)
    if name == 'retinanet':
        config.test_evaluator.ann_file = str(next((scenes / root).glob('annotations/*val*.json')))
        # Few boxes of random weights overlap a digit by half.
        config.test_evaluator = [config.test_evaluator, dict(type='VOCMetric', iou_thrs=[0.1, 0.3])]
    config.dump(tmp_path / 'config.py')
    checkpoint, work_dir = checkpoint_of(name, tmp_path), tmp_path / 'work'
    arguments = [
        tmp_path / 'config.py',
        tmp_path / 'x.raw',
        '--checkpoint',
        checkpoint,
        '--work-dir',
        work_dir,
    ]
    tool.main([str(each) for each in arguments])
    assert '| Raw, float16 |' in capsys.readouterr().out
    scores = json.loads((work_dir / 'scores.json').read_text())
    assert list(scores) == ['Raw, float16', 'PyTorch']
    found, expected = scores.values()
    assert list(found) == list(expected) and any(value > 0 for value in expected.values())
    for key in found:
        atol = 0.01 if name == 'retinanet' else 0.05  # of 1, and of 100 percent
        np.testing.assert_allclose(found[key], expected[key], atol=atol, err_msg=key)
    assert shapes == {(1, 3, *size) if layout == 'NCHW' else (1, *size, 3)}


def test_table():
    """Values of every kind are abbreviated; many scores have one line each."""
    values = {
        'a': 0.5,
        'b': torch.tensor([1.0, 3.0, float('nan')]),
        'c': np.zeros((3, 4)),
        'd': {'e': 7, 'f': [None, 'x']},
        'g': None,
        'h': 'long ' * 20,
        'i|j': np.float32(2),
        'k': torch.tensor([4.0]),
        'l': [],
    }
    header, _, row = tool.table({'one': values}).strip().splitlines()
    assert header == '| engine | a | b | c | d/e | d/f | g | h | i/j | k | l |'
    text = 'long ' * 8 + '...'
    expected = ['one', '0.5000', 'mean of 3: 2.0000', '3 x 4 values', '7', '2 values', 'None', text, '2.0000']
    assert row == f'| {" | ".join([*expected, "4.0000", "0 values"])} |'
    scores = {'one': {f's{i}': i / 4 for i in range(20)}, 'two': {'s0': 1.0, 'more': 2.0}}
    lines = tool.table(scores).strip().splitlines()
    assert lines[:4] == [
        '| score | one | two |',
        '|---|---|---|',
        '| s0 | 0.0000 | 1.0000 |',
        '| s1 | 0.2500 | None |',
    ]
    assert lines[-1] == '| more | None | 2.0000 |' and len(lines) == 2 + 21
    assert tool.table({'one': {}, 'two': {}}).strip() == 'The metrics of the config give no scores.'


@torch.no_grad()
@needs_export
def test_boxes_and_masks_in_the_size_of_the_picture(export, tmp_path):
    """Results equal mmdet's for a resized image."""
    model, _, _ = graph_of('mask_rcnn', tmp_path)
    path, _ = export('mask_rcnn')
    image = noise_for((1, 3, 160, 192), 0)
    info = dict(img_shape=(160, 192), ori_shape=(80, 96), scale_factor=(2.0, 2.0))
    info['batch_input_shape'] = info['img_shape']
    found = tool.FileModel(str(path), None)(image, [DetDataSample(metainfo=info)])[0].pred_instances
    expected = model.predict(image, [DetDataSample(metainfo=info)])[0].pred_instances
    assert len(found) == len(expected) > 5
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-3, atol=1e-4)
    first = expected.scores.diff()[:1] < -2e-6
    assert first.all() and torch.equal(found.labels[:1], expected.labels[:1])
    torch.testing.assert_close(found.bboxes[:1], expected.bboxes[:1], rtol=1e-3, atol=1e-2)
    assert found.masks.shape == expected.masks.shape == (len(found), 80, 96)
    assert (found.masks[0] != expected.masks[0]).float().mean() < 1e-3


@torch.no_grad()
@needs_export
def test_small_images_are_padded(export):
    """Small images are padded, and results in the padding are cut off."""
    path, _ = export('mask_rcnn')
    model = tool.FileModel(str(path), None)
    image = noise_for((1, 3, 100, 120), 0)
    assert model.pad(image).shape == (1, 3, 160, 192) and not model.pad(image)[:, :, 100:].any()
    info = dict(img_shape=(100, 120), ori_shape=(50, 60), scale_factor=(2.0, 2.0))
    found = model(image, [DetDataSample(metainfo=info)])[0].pred_instances
    assert len(found) > 5 and found.masks.shape[1:] == (50, 60)
    assert (found.bboxes[:, 0::2] <= 60).all() and (found.bboxes[:, 1::2] <= 50).all()


def test_errors(tmp_path):
    onnx = pytest.importorskip('onnx')
    node = onnx.helper.make_node('Identity', ['image'], ['out'])
    values = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in ('image', 'out')]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph([node], 'graph', values[:1], values[1:]), ir_version=10
    )
    for name, about, message in (
        ('backbone', dict(task='backbone'), 'is no classifier, detector or segmentor of export.py'),
        ('raw', dict(task='detection', preprocessed=True), 'export it without --preprocess'),
        ('classes', dict(task='segmentation', preprocessed=False), 'export it with --logits'),
    ):
        onnx_file.write(proto, tmp_path / f'{name}.onnx', about)
        with pytest.raises(ValueError, match=re.escape(message)):
            tool.FileModel(str(tmp_path / f'{name}.onnx'), None)
    onnx_file.write(proto, tmp_path / 'small.onnx', dict(task='detection', preprocessed=False, size=[64, 64]))
    model = tool.FileModel(str(tmp_path / 'small.onnx'), None)
    with pytest.raises(
        ValueError, match=r'The file takes images of \[64, 64\], and the test data are \(96, 64\)'
    ):
        model(noise_for((1, 3, 96, 64), 0), [])
    # Zero padding would change the pooled features of a classifier.
    about = dict(task='classification', preprocessed=False, size=[64, 64])
    onnx_file.write(proto, tmp_path / 'exact.onnx', about)
    with pytest.raises(ValueError, match=r'The file takes .*\[64, 64\], and the test data are \(32, 64\)'):
        tool.FileModel(str(tmp_path / 'exact.onnx'), None)(noise_for((1, 3, 32, 64), 0), [])


@needs_export
def test_another_config(classifier, export, tmp_path, monkeypatch):
    """A config whose task, normalisation or classes differ from the file's is refused at the start."""
    config, _ = classifier
    monkeypatch.chdir(tmp_path)
    path, _ = export('classifier')
    with pytest.raises(SystemExit, match='The file is for classification, and the config for detection'):
        tool.main([config, str(path), '--cfg-options', 'default_scope=mmdet'])
    with pytest.raises(SystemExit, match=r'exported with mean \[\d.* the config has \[1\.0, 2\.0, 3\.0\]'):
        tool.main([config, str(path), '--cfg-options', 'data_preprocessor.mean=[1.0,2.0,3.0]'])
    (tmp_path / 'crops/a').mkdir(parents=True)
    Image.new('RGB', (64, 64)).save(tmp_path / 'crops/a/0.png')
    changed = Config.fromfile(config)
    changed.test_dataloader.dataset = dict(
        type='CustomDataset', data_prefix='crops', pipeline=changed.test_dataloader.dataset.pipeline
    )
    changed.test_dataloader.update(num_workers=0, persistent_workers=False)
    changed.dump('other.py')
    with pytest.raises(
        SystemExit, match=r'The file has 10 classes \(.*\), and the test data 1 \(a, \.\.\.\)'
    ):
        tool.main(['other.py', str(path)])
    without = Config.fromfile('other.py')
    dataset = without.test_dataloader.dataset
    dataset.update(metainfo=dict(classes=[str(digit) for digit in range(10)]), with_label=False)
    dataset.data_prefix = 'crops/a'
    without.dump('unlabelled.py')
    with pytest.raises(SystemExit, match="need 'gt_label', which the test data do not have"):
        tool.main(['unlabelled.py', str(path)])
