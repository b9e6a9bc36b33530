"""Models by name or path: mmpretrain's hub and the inferencers of the three codebases."""

import importlib

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')
pytest.importorskip('mmseg')

import mmpretrain

from mmmobilemamba import zoo
from mmmobilemamba.models.checkpoint import convert_backbone
from mmmobilemamba.utils import config_path
from mmmobilemamba.weights import weights_of

from .authors_files import assert_holds, runner_file, state_dict_of
from .conftest import ROOT, authors_checkpoint, image_for

CLASSIFIER = 'mobilemamba-t2_8xb128_in1k'


@pytest.fixture(scope='module')
def image():
    """A BGR image, (H, W, 3)."""
    return np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


def save_model(config, path):
    """Save a checkpoint with random weights and class names for a config; returns the model."""
    init_default_scope(config.default_scope)
    torch.manual_seed(0)
    model = MODELS.build({'data_preprocessor': config.get('data_preprocessor'), **config.model}).eval()
    for buffer in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        buffer.running_mean.normal_(0, 0.1)  # so that a missing key is noticed
    classes = config.test_dataloader.dataset.get('metainfo', {}).get(
        'classes', [f'class {i}' for i in range(1000)]
    )
    meta = dict(dataset_meta=dict(classes=classes, palette=[(9 * i, 0, 0) for i in range(len(classes))]))
    torch.save(dict(meta=meta, state_dict=model.state_dict()), path)
    return model


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    """The T2 of the ImageNet config and its checkpoint."""
    path = tmp_path_factory.mktemp('zoo') / 'classifier.pth'
    config = Config.fromfile(ROOT / f'configs/mobilemamba/{CLASSIFIER}.py')
    return save_model(config, path), str(path)


def small_config(pattern, options, folder):
    """Write a config that inherits one of ours by its path; returns its path."""
    (parent,) = (ROOT / 'configs').glob(pattern)
    path = folder / 'leaf.py'
    path.write_text(f'_base_ = {str(parent)!r}\nmodel = {options!r}\n')
    return path


def test_names():
    """All configs in configs/mobilemamba, without detectors and segmentors."""
    names = mmpretrain.list_models('mobilemamba*')
    assert names == sorted(path.stem for path in (ROOT / 'configs/mobilemamba').glob('*.py'))
    assert CLASSIFIER in mmpretrain.list_models('mobilemamba*_in1k', task='Image Classification')
    assert 'resnet18_8xb32_in1k' in mmpretrain.list_models()


def test_entering_twice_changes_nothing():
    before = mmpretrain.list_models()
    importlib.reload(zoo)
    zoo.register_classifiers()
    assert mmpretrain.list_models() == before


def test_get_model_with_a_local_checkpoint(classifier):
    expected, path = classifier
    model = mmpretrain.get_model(CLASSIFIER, pretrained=path)
    assert not model.training
    for (name, found), wanted in zip(model.state_dict().items(), expected.state_dict().values()):
        assert torch.equal(found, wanted), name
    assert model._dataset_meta['classes'][999] == 'class 999'
    features = mmpretrain.get_model(CLASSIFIER, backbone=dict(out_indices=(0, 1, 2)), neck=None, head=None)
    assert [x.shape[1] for x in features.extract_feat(torch.zeros(1, 3, 64, 64))] == [144, 272, 368]


def test_pretrained_without_an_address_says_so():
    """An error instead of a warning and random weights."""
    with pytest.raises(FileNotFoundError, match=r'none at a public address; see checkpoints\.md in docs'):
        mmpretrain.get_model('mobilemamba-t2_1xb64-4e_digits-64px', pretrained=True)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A folder with different plain and distilled T2 weights; returns both state dicts in our layout."""
    monkeypatch.setenv('MMMOBILEMAMBA_WEIGHTS', str(tmp_path))
    plain = authors_checkpoint('t2')
    distilled = {k: v.flip(0) if k == 'head.l.weight' else v for k, v in plain.items()}
    torch.save(dict(net=distilled, net_E=plain), tmp_path / 'mobilemamba_t2.pth')
    torch.save(distilled, tmp_path / 'mobilemamba_t2s.pth')
    heads = [each['head.l.weight'] for each in (plain, distilled)]
    backbone = {f'backbone.{key}': value for key, value in convert_backbone(plain).items()}
    return [{**backbone, 'head.head.linear.weight': weight} for weight in heads]


@pytest.mark.parametrize('name', [CLASSIFIER, 'mobilemamba-t2_8xb128-1000e-kd_in1k'])
def test_authors_classifiers_by_name(name, published, image):
    """``pretrained=True`` loads all weights of the named file, the averaged ones if it has both."""
    model = mmpretrain.get_model(name, pretrained=True)
    found, expected = model.state_dict(), published['kd' in name]
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []
    assert model._dataset_meta['classes'][999] == 'toilet tissue, toilet paper, bathroom tissue'

    inferencer = mmpretrain.ImageClassificationInferencer(name)
    (result,) = inferencer(image)
    batch = model.data_preprocessor(next(iter(inferencer.preprocess([image]))))['inputs']
    with torch.no_grad():
        scores = model(batch).softmax(1)[0]
    torch.testing.assert_close(torch.as_tensor(result['pred_scores']), scores, rtol=1e-4, atol=1e-7)
    again = mmpretrain.inference_model(name, image)
    assert again['pred_label'] == result['pred_label'] == scores.argmax()


def test_the_two_answer_differently(published):
    inputs = image_for((1, 3, 192, 192))
    models = [
        mmpretrain.get_model(name, pretrained=True)
        for name in (CLASSIFIER, 'mobilemamba-t2_8xb128-1000e-kd_in1k')
    ]
    with torch.no_grad():
        plain, distilled = (model(inputs)[0] for model in models)
    bias = models[0].head.head.linear.bias
    torch.testing.assert_close((distilled - bias).flip(0), plain - bias, rtol=1e-4, atol=1e-4)
    assert (plain - distilled).abs().max() > 0.1


def test_classification_by_name(classifier, image):
    """Equal to the network on the output of the config's test pipeline."""
    expected, path = classifier
    inferencer = mmpretrain.ImageClassificationInferencer(CLASSIFIER, pretrained=path)
    (result,) = inferencer(image)
    inputs = inferencer.preprocess([image])
    batch = expected.data_preprocessor(next(iter(inputs)))['inputs']
    assert batch.shape == (1, 3, 192, 192)
    with torch.no_grad():
        scores = expected(batch).softmax(1)[0]
    torch.testing.assert_close(torch.as_tensor(result['pred_scores']), scores, rtol=1e-4, atol=1e-7)
    assert result['pred_class'] == f'class {scores.argmax()}'

    (config,) = (ROOT / 'configs').glob(f'*/{CLASSIFIER}.py')
    by_path = mmpretrain.ImageClassificationInferencer(str(config), pretrained=path)
    assert by_path(image)[0]['pred_label'] == result['pred_label']

    again = mmpretrain.inference_model(CLASSIFIER, image, pretrained=path)
    assert again['pred_label'] == result['pred_label']
    model = mmpretrain.get_model(CLASSIFIER, pretrained=path)
    assert mmpretrain.inference_model(model, image)['pred_label'] == result['pred_label']


def test_distilled_classifier_by_name_needs_no_teacher(classifier, image):
    name = 'mobilemamba-t2_8xb128-1000e-kd_in1k'
    _, path = classifier
    found = mmpretrain.inference_model(name, image, pretrained=path)
    assert found['pred_label'] == mmpretrain.inference_model(CLASSIFIER, image, pretrained=path)['pred_label']


def save_whole(name, folder):
    """Write an authors' detector or segmentor, without class names, where its name is looked up."""
    state_dict = state_dict_of(name)
    torch.save(runner_file(state_dict), folder / weights_of(name).file_name)
    return state_dict


def test_authors_detector_by_name(tmp_path, monkeypatch):
    """The config is given by its path, because mmengine only looks up names in mmdet's metafiles."""
    from mmdet.apis import DetInferencer

    monkeypatch.setenv('MMMOBILEMAMBA_WEIGHTS', str(tmp_path))
    name = 'retinanet-b1'
    expected = save_whole(name, tmp_path)
    config = config_path(weights_of(name).config)
    inferencer = DetInferencer(config, f'mobilemamba://{name}', device='cpu', show_progress=False)
    assert_holds(inferencer.model, expected)
    assert inferencer.visualizer.dataset_meta['classes'][79] == 'toothbrush'
    with pytest.raises(ValueError, match='Cannot find model: retinanet_mobilemamba-b1_fpn_1x_coco in mmdet'):
        DetInferencer(weights_of(name).config, device='cpu')


def test_authors_segmentor_by_name(tmp_path, monkeypatch):
    """mmseg would use the class names of Cityscapes; named weights include their own."""
    from mmseg.apis import MMSegInferencer

    monkeypatch.setenv('MMMOBILEMAMBA_WEIGHTS', str(tmp_path))
    name = 'sem-fpn-b4'
    expected = save_whole(name, tmp_path)
    config = config_path(weights_of(name).config)
    inferencer = MMSegInferencer(config, f'mobilemamba://{name}', device='cpu')
    assert_holds(inferencer.model, expected)
    found = inferencer(np.zeros((64, 64, 3), np.uint8), out_dir=str(tmp_path / 'pictures'))
    assert found['predictions'].shape == (64, 64)
    assert inferencer.visualizer.dataset_meta['classes'][149] == 'flag'
    assert len(list((tmp_path / 'pictures/vis').iterdir())) == 1


def test_detection_by_path(image, tmp_path):
    from mmdet.apis import DetInferencer

    path = small_config('retinanet/*2e_digits.py', dict(test_cfg=dict(score_thr=0.0)), tmp_path)
    config = Config.fromfile(path)
    model = save_model(config, tmp_path / 'model.pth')
    inferencer = DetInferencer(str(path), str(tmp_path / 'model.pth'), device='cpu', show_progress=False)
    assert inferencer.visualizer.dataset_meta['classes'][3] == 'three'
    (found,) = inferencer(image)['predictions']

    (inputs,) = inferencer.preprocess([image])
    with torch.no_grad():
        wanted = model.test_step(inputs[1])[0].pred_instances
    assert len(found['scores']) == len(wanted) == config.model.test_cfg.max_per_img
    assert found['labels'] == wanted.labels.tolist()
    torch.testing.assert_close(torch.tensor(found['bboxes']), wanted.bboxes)


def test_segmentation_by_path(image, tmp_path):
    from mmseg.apis import MMSegInferencer

    (path,) = (ROOT / 'configs').glob('sem_fpn/*1k_digits*.py')
    model = save_model(Config.fromfile(path), tmp_path / 'model.pth')
    inferencer = MMSegInferencer(str(path), str(tmp_path / 'model.pth'), device='cpu')
    found = inferencer(image, show=False)['predictions']

    (inputs,) = inferencer.preprocess([image], batch_size=1)
    with torch.no_grad():
        wanted = model.test_step(inputs)[0].pred_sem_seg.data[0].numpy()
    assert found.shape == (90, 120)
    np.testing.assert_array_equal(found, wanted)
    assert len(np.unique(found)) > 1
