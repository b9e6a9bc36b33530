"""Scores of a file by the config's own data and metrics are those of PyTorch."""

import re

import pytest
import torch

pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
pytest.importorskip('mmpretrain')
pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from mmdet.structures import DetDataSample

from mmmobilemamba.deployment import onnx_file

from ..conftest import load_script, noise_for
from .networks import checkpoint_of, config_of, graph_of

tool = load_script('tools/deployment/evaluate_onnx.py')


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('scenes')
    load_script('tools/dataset_converters/digits_scenes.py').main([str(folder), '--train', '1', '--val', '3'])
    return folder


def export(name, folder, size, **kwargs):
    """A file, the checkpoint it is from, and the config's path."""
    _, graph, about = graph_of(name, folder, **kwargs)
    about.update(size=size, preprocessed=False)
    path = folder / f'{name}.onnx'
    onnx_file.write(onnx_file.to_onnx(graph, noise_for((2, 3, *size), 0), False), path, about)
    return path, checkpoint_of(name, folder)


@pytest.mark.parametrize(
    ('name', 'root', 'key'), [('classifier', 'imagenet', 'accuracy/top1'), ('sem_fpn', 'ade', 'mIoU')]
)
def test_same_scores_as_pytorch(name, root, key, scenes, tmp_path, capsys):
    config = config_of(name)
    for loader in (config.test_dataloader, config.val_dataloader):
        loader.dataset.data_root = str(scenes / root)
        loader.update(num_workers=0, persistent_workers=False)
    config.dump(tmp_path / 'config.py')
    size = (64, 64) if name == 'classifier' else (224, 224)
    path, checkpoint = export(
        name, tmp_path, size, **(dict() if name == 'classifier' else dict(with_logits=True))
    )
    work_dir = ['--work-dir', str(tmp_path / 'work')]
    tool.main([str(tmp_path / 'config.py'), str(path), '--checkpoint', str(checkpoint), *work_dir])
    table = capsys.readouterr().out.split('| engine |')[2].splitlines()  # the second has both
    column = [cell.strip() for cell in table[0].split('|')].index(key)
    rows = {row.split('|')[1].strip(): float(row.split('|')[column + 2]) for row in table[2:4]}
    assert rows['ONNX Runtime'] == pytest.approx(rows['PyTorch'], abs=0.1)
    assert rows['PyTorch'] > 0


@torch.no_grad()
def test_boxes_and_masks_in_the_size_of_the_picture(tmp_path):
    """As mmdet's own, of a picture that was resized."""
    model, _, _ = graph_of('mask_rcnn', tmp_path)
    path, _ = export('mask_rcnn', tmp_path, (160, 192))
    image = noise_for((1, 3, 160, 192), 0)
    info = dict(img_shape=(160, 192), ori_shape=(80, 96), scale_factor=(2.0, 2.0))
    info['batch_input_shape'] = info['img_shape']
    found = tool.OnnxModel(str(path), None)(image, [DetDataSample(metainfo=info)])[0].pred_instances
    expected = model.predict(image, [DetDataSample(metainfo=info)])[0].pred_instances
    assert len(found) == len(expected) > 5
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-3, atol=1e-4)
    first = expected.scores.diff()[:1] < -2e-6
    assert first.all() and torch.equal(found.labels[:1], expected.labels[:1])
    torch.testing.assert_close(found.bboxes[:1], expected.bboxes[:1], rtol=1e-3, atol=1e-2)
    assert found.masks.shape == expected.masks.shape == (len(found), 80, 96)
    assert (found.masks[0] != expected.masks[0]).float().mean() < 1e-3


@torch.no_grad()
def test_small_images_are_padded(tmp_path):
    """And what is found in the padding is cut off."""
    path, _ = export('mask_rcnn', tmp_path, (160, 192))
    model = tool.OnnxModel(str(path), None)
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
        ('backbone', dict(task='backbone'), 'is no classifier, detector or segmentor of export_onnx.py'),
        ('raw', dict(task='detection', preprocessed=True), 'export it without --preprocess'),
        ('classes', dict(task='segmentation', preprocessed=False), 'export it with --logits'),
    ):
        onnx_file.write(proto, tmp_path / f'{name}.onnx', about)
        with pytest.raises(ValueError, match=re.escape(message)):
            tool.OnnxModel(str(tmp_path / f'{name}.onnx'), None)
    onnx_file.write(proto, tmp_path / 'small.onnx', dict(task='detection', preprocessed=False, size=[64, 64]))
    model = tool.OnnxModel(str(tmp_path / 'small.onnx'), None)
    with pytest.raises(
        ValueError, match=r'The file takes images of \[64, 64\], and the test data are \(96, 64\)'
    ):
        model(noise_for((1, 3, 96, 64), 0), [])
