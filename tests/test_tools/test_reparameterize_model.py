"""Folding checkpoints of a classifier, a detector and a segmentor, and mmpretrain's tool."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')
pytest.importorskip('mmseg')

from ..commands import run
from ..conftest import ROOT, image_for, load_script, relative_error

tool = load_script('tools/model_converters/reparameterize_model.py')
PATTERNS = dict(
    classifier='mobilemamba/mobilemamba-t2_*e_digits-*.py',
    detector='mask_rcnn/*digits*.py',
    segmentor='deeplabv3/*digits*.py',
)


def make(kind, path):
    """A config, and a model with random statistics whose checkpoint is written to ``path``."""
    (source,) = (path for path in (ROOT / 'configs').glob(PATTERNS[kind]) if '-kd_' not in path.name)
    config = Config.fromfile(source)
    config.model.backbone.init_cfg = None
    if kind == 'detector':  # the twin's group norm cannot be folded
        config.model.neck.norm_cfg = dict(type='BN')
    init_default_scope(config.default_scope)
    model = MODELS.build(config.model)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    torch.save(dict(meta=dict(epoch=3), state_dict=model.state_dict()), path)
    config.dump(path.with_suffix('.py'))
    return path.with_suffix('.py'), model.eval()


def features(model):
    with torch.no_grad():
        return model.extract_feat(image_for((2, 3, 64, 96)))


@pytest.mark.parametrize(
    ('kind', 'parts'),
    [
        ('classifier', ['backbone', 'head']),
        ('detector', ['backbone', 'neck']),
        ('segmentor', ['backbone', 'neck']),
    ],
)
def test_fold(kind, parts, tmp_path, capsys):
    config, model = make(kind, tmp_path / 'trained.pth')
    out = tmp_path / 'folded.pth'
    tool.main([str(config), str(tmp_path / 'trained.pth'), str(out)])
    printed = capsys.readouterr().out
    assert f'folded {", ".join(parts)}; outputs within' in printed
    assert printed.splitlines()[-1] == '--cfg-options ' + ' '.join(f'model.{p}.deploy=True' for p in parts)

    config = Config.fromfile(config)
    config.merge_from_dict({f'model.{part}.deploy': True for part in parts})
    folded = MODELS.build(config.model).eval()
    content = load_checkpoint(folded, str(out), strict=True)
    assert content['meta']['epoch'] == 3
    assert Config.fromstring(content['meta']['cfg'], '.py').model.backbone.deploy is True
    for part in parts:
        norms = [m for m in getattr(folded, part).modules() if isinstance(m, _BatchNorm)]
        assert not norms, f'{part} has {norms}'
    for feature, expected in zip(features(folded), features(model)):
        assert relative_error(feature, expected) < 1e-5
    if kind == 'classifier':
        image = image_for((2, 3, 64, 96))
        with torch.no_grad():
            assert relative_error(folded(image), model(image)) < 1e-5


@pytest.mark.parametrize('channels', [1, 4])
def test_other_channels(channels, tmp_path, capsys):
    config, _ = make('classifier', tmp_path / 'trained.pth')
    options = [f'model.backbone.in_channels={channels}']
    changed = Config.fromfile(config)
    changed.model.backbone.in_channels = channels
    torch.save(dict(state_dict=MODELS.build(changed.model).state_dict()), tmp_path / 'trained.pth')
    out = tmp_path / 'folded.pth'
    tool.main([str(config), str(tmp_path / 'trained.pth'), str(out), '--cfg-options', *options])
    assert 'folded backbone, head; outputs within' in capsys.readouterr().out
    assert torch.load(out)['state_dict']['backbone.stem.0.weight'].shape[1] == channels


def test_a_neck_that_doubles_its_maps(tmp_path, capsys):
    """The sides of the test image are supported by such a neck."""
    config, _ = make('detector', tmp_path / 'trained.pth')
    config = Config.fromfile(config)
    neck = config.model.neck
    config.model.neck = dict(type='PAFPN', in_channels=neck.in_channels, out_channels=8, num_outs=3)
    config.dump(tmp_path / 'pafpn.py')
    model = MODELS.build(config.model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'trained.pth')
    tool.main([str(tmp_path / 'pafpn.py'), str(tmp_path / 'trained.pth'), str(tmp_path / 'folded.pth')])
    assert 'folded backbone; outputs within' in capsys.readouterr().out


def test_what_is_refused(tmp_path, capsys):
    config, _ = make('classifier', tmp_path / 'trained.pth')
    trained, out = str(tmp_path / 'trained.pth'), tmp_path / 'folded.pth'
    for path, message in ((out.with_suffix('.pt'), 'must end in .pth'), (tmp_path / 'x/y.pth', 'no folder')):
        with pytest.raises(SystemExit):
            tool.main([str(config), trained, str(path)])
        assert message in capsys.readouterr().err
    tool.main([str(config), trained, str(out)])
    with pytest.raises(SystemExit, match=r'was not folded.*is in the deployed form, which cannot be undone'):
        tool.main([str(config), str(out), str(tmp_path / 'twice.pth')])
    with pytest.raises(SystemExit, match=r'none.pth was not folded'):
        tool.main([str(config), str(tmp_path / 'none.pth'), str(tmp_path / 'twice.pth')])
    (tmp_path / 'page.pth').write_text('<html>')
    with pytest.raises(SystemExit, match=r'page.pth was not folded.*is a web page'):
        tool.main([str(config), str(tmp_path / 'page.pth'), str(tmp_path / 'twice.pth')])
    assert not (tmp_path / 'twice.pth').exists()
    with pytest.raises(SystemExit):
        tool.main([str(config), trained, trained])
    assert 'give it another name' in capsys.readouterr().err


@pytest.mark.parametrize('part', ['backbone.stem.0.bias', 'head.head.weight'])
@pytest.mark.parametrize('value', [10.0, float('nan')])
def test_a_difference_is_seen(tmp_path, monkeypatch, part, value):
    """If folding changes outputs, nothing is written."""
    config, _ = make('classifier', tmp_path / 'trained.pth')
    deploy = tool.deploy

    def broken(model):
        names = deploy(model)
        model.get_parameter(part).data.view(-1)[0] = value
        return names

    monkeypatch.setattr(tool, 'deploy', broken)
    with pytest.raises(SystemExit, match='was not folded: its outputs would change by'):
        tool.main([str(config), str(tmp_path / 'trained.pth'), str(tmp_path / 'folded.pth')])
    assert not (tmp_path / 'folded.pth').exists()


def test_a_head_that_cannot_be_built_folded(tmp_path):
    """mmpretrain's folded head cannot be built from a config, so nothing is written."""
    config, _ = make('classifier', tmp_path / 'trained.pth')
    trained = str(tmp_path / 'trained.pth')
    options = ('model.head.type=LeViTClsHead', 'model.head.distillation=False')
    with pytest.raises(SystemExit, match=r'cannot be built with model.backbone.deploy, model.head.deploy'):
        tool.main([str(config), trained, str(tmp_path / 'o.pth'), '--cfg-options', *options])
    assert not (tmp_path / 'o.pth').exists()


@pytest.mark.slow
def test_the_tool_of_mmpretrain(tmp_path):
    """It folds the backbone but not the head."""
    import mmpretrain

    config, model = make('classifier', tmp_path / 'trained.pth')
    script = f'{mmpretrain.__path__[0]}/.mim/tools/model_converters/reparameterize_model.py'
    out = tmp_path / 'folded.pth'
    run('python', script, config, tmp_path / 'trained.pth', out, cwd=tmp_path)
    config = Config.fromfile(config)
    config.model.backbone.deploy = True
    folded = MODELS.build(config.model).eval()
    load_checkpoint(folded, str(out), strict=True)
    image = image_for((2, 3, 64, 96))
    with torch.no_grad():
        assert relative_error(folded(image), model(image)) < 1e-5
