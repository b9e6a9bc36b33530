"""Names as checkpoints on command lines and for the teacher of a distillation."""

import argparse
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmmobilemamba.deployment.build import load_model
from mmmobilemamba.models.checkpoint import convert_backbone, fetch_checkpoint
from mmmobilemamba.weights import checkpoint_argument

from ..conftest import ROOT, authors_checkpoint, load_script

CONFIG = str(ROOT / 'configs/mobilemamba/mobilemamba-t2_8xb128_in1k.py')
TOOLS = {
    'deployment/export.py': (CONFIG, '{}', 'out.onnx'),
    'deployment/evaluate.py': (CONFIG, 'out.onnx', '--checkpoint', '{}'),
    'model_converters/reparameterize_model.py': (CONFIG, '{}', 'out.pth'),
    'model_converters/mobilemamba_to_mm.py': ('{}', 'out.pth'),
    'misc/check.py': (CONFIG, '{}'),
}


@pytest.fixture
def weights(folder, t2):
    folder.mkdir()
    (folder / 'mobilemamba_t2.pth').write_bytes(t2)


def test_argument():
    """Names and URLs keep their slashes; everything else is a path."""
    for text in ('mobilemamba://b1', 'https://example.org/b1.pth'):
        assert checkpoint_argument(text) == text
    assert checkpoint_argument('checkpoints//b1.pth') == Path('checkpoints/b1.pth')
    with pytest.raises(argparse.ArgumentTypeError, match=r"named 'b3'. The names are t2, "):
        checkpoint_argument('mobilemamba://b3')


@pytest.mark.parametrize('tool', TOOLS)
def test_wrong_name(tool, folder, capsys):
    main = load_script(f'tools/{tool}').main
    with pytest.raises(SystemExit) as caught:
        main([argument.format('mobilemamba://t3') for argument in TOOLS[tool]])
    assert caught.value.code == 2
    assert "There are no published weights named 't3'. The names are t2, t2-kd," in capsys.readouterr().err


def test_every_tool_with_a_checkpoint_is_here():
    """No tool parses checkpoints as plain paths."""
    found = [
        str(path.relative_to(ROOT / 'tools'))
        for path in (ROOT / 'tools').rglob('*.py')
        if 'checkpoint_argument' in path.read_text(encoding='utf-8')
    ]
    assert sorted(found) == sorted(TOOLS)
    for path in (ROOT / 'tools').rglob('*.py'):
        assert "checkpoint', type=Path" not in path.read_text(encoding='utf-8')


def test_converters(weights, tmp_path, capsys):
    reparameterize = load_script('tools/model_converters/reparameterize_model.py')
    reparameterize.main([CONFIG, 'mobilemamba://t2', 'deployed.pth'])
    assert 'folded backbone, head' in capsys.readouterr().out
    converter = load_script('tools/model_converters/mobilemamba_to_mm.py')
    converter.main(['mobilemamba://t2', 'converted.pth'])
    (path,) = tmp_path.glob('converted-*.pth')
    state_dict = torch.load(path, weights_only=True)['state_dict']
    for key, value in convert_backbone(authors_checkpoint('t2')).items():
        assert torch.equal(state_dict[f'backbone.{key}'], value)


def test_export_and_evaluate_load_the_classifier(weights):
    """Both use this function."""
    config = Config.fromfile(CONFIG)
    model = load_model(config, 'mobilemamba://t2')
    key = 'stages.0.blocks.0.mixer.fn.global_op.ss2d.D'  # not changed by folding
    assert torch.equal(model.backbone.state_dict()[key], convert_backbone(authors_checkpoint('t2'))[key])


def test_teacher(weights):
    """A distilled classifier with the authors' T2 as the teacher."""
    init_default_scope('mmpretrain')
    model = Config.fromfile(CONFIG).model
    teacher = dict(model, init_cfg=dict(type='Pretrained', checkpoint='mobilemamba://t2'))
    teacher['data_preprocessor'] = dict(mean=[0.0] * 3, std=[255.0] * 3, to_rgb=True)
    student = dict(model, type='DistilledClassifier', teacher=teacher, teacher_size=64)
    network = MODELS.build(dict(student, data_preprocessor=teacher['data_preprocessor']))
    network.init_weights()
    for key, value in convert_backbone(authors_checkpoint('t2')).items():
        assert torch.equal(network.teacher.classifier.backbone.state_dict()[key], value)


def test_fetch_checkpoint(weights):
    content = fetch_checkpoint('mobilemamba://t2')
    assert content.keys() == authors_checkpoint('t2').keys()


@pytest.mark.parametrize(
    'arguments',
    [
        ('test.py', CONFIG, 'mobilemamba://t3'),
        ('train.py', CONFIG, '--cfg-options', 'load_from=mobilemamba://t3'),
        ('train.py', 'mine.py'),
    ],
)
def test_wrong_name_in_training(folder, tmp_path, monkeypatch, capsys, arguments):
    """On the command line and in a config, it is a clear error before anything is built."""
    text = "model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='mobilemamba://t3')))"
    (tmp_path / 'mine.py').write_text(f'_base_ = {CONFIG!r}\n{text}\n')
    monkeypatch.setattr(sys, 'argv', list(arguments))
    with pytest.raises(SystemExit) as caught:
        load_script('tools/train.py').main(arguments[0], '')
    assert caught.value.code == 2
    message = f"{arguments[0]}: error: There are no published weights named 't3'. The names are t2,"
    assert message in capsys.readouterr().err


def test_weights_of_another_task(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['test.py', CONFIG, 'mobilemamba://retinanet-b1'])
    with pytest.raises(SystemExit):
        load_script('tools/train.py').main('test.py', '')
    message = 'the config is for classification, and mobilemamba://retinanet-b1 is a model for detection'
    assert message in capsys.readouterr().err
