"""Export of recipes with large weights: logits of a thousand, saturated scores, thousands of ties.

``make test-deploy`` runs all of them, the normal suite the two hardest ones.
"""

import logging
import re

import pytest
import torch

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
pytest.importorskip('mmpretrain')
pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmmobilemamba.deployment import proof
from mmmobilemamba.models import deploy, set_backend

from ..conftest import ROOT, load_script, noise_for
from ..helpers import ODD, randomise
from . import dense_detectors

tool = load_script('tools/deployment/export.py')
graph_exporter = load_script('tools/deployment/graph_exporter.py')
FOLDERS = (
    'deeplabv3',
    'faster_rcnn',
    'fcos',
    'mask_rcnn',
    'mobilemamba',
    'pspnet',
    'retinanet',
    'rtmdet',
    'segformer',
    'sem_fpn',
    'ssd',
    'upernet',
    'yolox',
)
RECIPES = sorted(
    str(path.relative_to(ROOT / 'configs'))
    for name in FOLDERS
    for path in (ROOT / 'configs' / name).glob('*.py')
    # With the tiny backbone, classifiers of all archs are the same network, taught or not.
    if name != 'mobilemamba' or re.search('-t2_(8xb128|1xb64-4e)_', path.name)
)
WITHOUT_NORMS = 'retinanet/retinanet_mobilemamba-b1_fpn_1x_coco.py'  # no norm layers in neck and head
HARDEST = {
    (WITHOUT_NORMS, '--dynamic'),
    ('mask_rcnn/mask-rcnn_mobilemamba-t2_fpn_1e_digits.py', '--size'),
}
SCORES = ('cls.weight', 'conv_cls.weight', 'fc_cls.weight', 'conv_seg.weight', 'linear.weight', 'l.weight')


def moved(recipe, folder):
    """A recipe with a tiny backbone, and a checkpoint with enlarged weights in all layers (two Path)."""
    config = Config.fromfile(ROOT / 'configs' / recipe)
    config.model.backbone.update(arch=ODD, init_cfg=None)
    config.model.pop('teacher', None)
    if config.model.get('type') == 'DistilledClassifier':
        config.model.type = 'ImageClassifier'
        for key in ('teacher_size', 'kd_weight', 'tau'):
            config.model.pop(key, None)
    if 'head' in config.model:
        config.model.head.in_channels = ODD['embed_dims'][-1]
    init_default_scope(config.default_scope)
    logging.disable(logging.INFO)
    try:
        model = randomise(MODELS.build(config.model))
    finally:
        logging.disable(logging.NOTSET)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and not name.startswith('backbone'):
            torch.nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
        if name.endswith(SCORES):
            parameter.data *= 300
    config.dump(folder / 'config.py')
    torch.save(dict(state_dict=model.state_dict()), folder / 'moved.pth')
    return folder / 'config.py', folder / 'moved.pth'


def params():
    """Recipes with dynamic sizes, their digits twins (same heads) with one size, and the hardest cases."""
    for recipe in RECIPES:
        option = '--size' if '_digits' in recipe else '--dynamic'
        marks = () if (recipe, option) in HARDEST else pytest.mark.deploy
        yield pytest.param(recipe, option, marks=marks)


@pytest.mark.parametrize(('recipe', 'option'), list(params()))
def test_recipes(recipe, option, tmp_path, capsys):
    options = ['--size', '96'] + ([option] if option == '--dynamic' else [])
    tool.main([*map(str, moved(recipe, tmp_path)), str(tmp_path / 'out.onnx'), *options])
    said = capsys.readouterr().out
    assert said.count('\n  ') == (7 if option == '--dynamic' else 5) and 'of PyTorch' in said


@torch.no_grad()
def test_the_recipe_without_norms_is_saturated(tmp_path):
    """Scores are saturated as after a training, so the test above covers this case."""
    config, checkpoint = moved(WITHOUT_NORMS, tmp_path)
    model = tool.build.load_model(Config.fromfile(config), checkpoint)
    scores, _ = model.bbox_head(model.extract_feat(noise_for((1, 3, 96, 96), 0)))
    logits = torch.cat([level.flatten() for level in scores])
    assert logits.abs().max() > 300 and (logits.sigmoid() == 1).sum() > 1000


@pytest.mark.parametrize(
    ('name', 'dynamic'),
    [
        pytest.param(name, dynamic, marks=() if (name, dynamic) == ('GFLHead', False) else pytest.mark.deploy)
        for name in dense_detectors.HEADS
        for dynamic in (False, True)
    ],
)
def test_heads(name, dynamic, tmp_path):
    """Every supported dense head, in ONNX Runtime."""
    assert_exported(dense_detectors.config_of(name), 96, dynamic, tmp_path)


@pytest.mark.deploy
@pytest.mark.parametrize(('name', 'dynamic'), [('PAFPN', False), ('PAFPN', True), ('CSPNeXtPAFPN', False)])
def test_necks(name, dynamic, tmp_path):
    """Necks that are commonly used with these heads."""
    config = dense_detectors.config_of('RTMDetSepBNHead')
    strides = [16, 32, 64] + ([128] if name == 'PAFPN' else [])
    config.bbox_head.anchor_generator = dict(type='MlvlPointGenerator', offset=0, strides=strides)
    config.neck = dict(type=name, in_channels=list(ODD['embed_dims']), out_channels=32)
    config.neck.update(dict(num_outs=4) if name == 'PAFPN' else dict(num_csp_blocks=1))
    assert_exported(config, 128, dynamic, tmp_path)


def assert_exported(config, side, dynamic, folder):
    model = dense_detectors.build(config)
    deploy(model)
    set_backend(model, 'export')
    graph = tool.build.make_graph(model, 'detection').eval()
    about = dict(task='detection', size=None if dynamic else (side, side), preprocessed=False)
    about.update(mean=[123.675, 116.28, 103.53], std=[58.0] * 3)
    run = graph_exporter.OnnxExporter(None).make(
        graph, about, noise_for((2, 3, side, side), 0), folder / 'out.onnx'
    )
    assert tool.compare(graph, run, about, (side, side)) < proof.TOLERANCE
