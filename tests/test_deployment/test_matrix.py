"""All archs, all heads and both formats, exported and verified by the tool; ``make test-deploy``."""

import json

import pytest
import torch

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
pytest.importorskip('mmpretrain')
pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from mmengine.config import Config  # noqa: E402
from mmengine.registry import MODELS, init_default_scope  # noqa: E402

from mmmobilemamba.deployment import onnx_file  # noqa: E402
from mmmobilemamba.models.backbones.arch import ARCHS  # noqa: E402

from ..conftest import ROOT, load_script  # noqa: E402
from ..helpers import randomise  # noqa: E402
from .networks import CONFIGS, checkpoint_of, config_of  # noqa: E402

pytestmark = pytest.mark.deploy
tool = load_script('tools/deployment/export.py')
MOST_NODES = 750  # in a classifier of any arch with dynamic sizes


def classifier_of(arch, folder):
    """The ImageNet config of an arch, and a checkpoint with random weights and statistics (str)."""
    config = next((ROOT / 'configs/mobilemamba').glob(f'mobilemamba-{arch}_8xb128_in1k*.py'))
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    path = folder / f'{arch}.pth'
    torch.save(dict(state_dict=randomise(MODELS.build(Config.fromfile(config).model)).state_dict()), path)
    return str(config), str(path)


def has_proved(out, capsys):
    """Check that the tool has written a file after its comparisons; returns its metadata."""
    said = capsys.readouterr().out
    assert said.count('\n  ') >= 5 and f'{out.name}: ' in said.splitlines()[-1], said
    if out.suffix == '.pt2':
        files = {'mmmobilemamba.json': ''}
        torch.export.load(out, extra_files=files)
        return json.loads(files['mmmobilemamba.json'])
    model = onnx.load(out)
    onnx.checker.check_model(model)
    assert onnx_file.operators(model).total() > 100
    return json.loads({entry.key: entry.value for entry in model.metadata_props}['mmmobilemamba'])


def test_larger_inputs_have_the_same_network():
    """These three only differ in the input size, so testing one is enough if sizes are dynamic."""
    assert ARCHS['b1'] == ARCHS['b2'] == ARCHS['b4']


@pytest.mark.parametrize(
    ('arch', 'options'),
    [(arch, []) for arch in ARCHS] + [(arch, ['--dynamic']) for arch in ARCHS if arch not in ('b2', 'b4')],
    ids=lambda value: value if isinstance(value, str) else ' '.join(value) or 'fixed',
)
def test_archs(arch, options, tmp_path, capsys):
    out = tmp_path / 'network.onnx'
    tool.main([*classifier_of(arch, tmp_path), str(out), *options])
    about = has_proved(out, capsys)
    assert about['task'] == 'classification' and len(about['labels']) == 1000
    assert (about['size'] is None) == bool(options)
    if options:
        assert onnx_file.operators(onnx.load(out)).total() <= MOST_NODES


@pytest.mark.parametrize('head', CONFIGS)
@pytest.mark.parametrize(
    'options', [['out.onnx'], ['out.onnx', '--dynamic', '--preprocess'], ['out.pt2']], ids=' '.join
)
def test_heads(head, options, tmp_path, capsys):
    config = tmp_path / 'config.py'
    config_of(head).dump(config)
    name, *others = options
    tool.main([str(config), str(checkpoint_of(head, tmp_path)), str(tmp_path / name), *others])
    about = has_proved(tmp_path / name, capsys)
    assert about['preprocessed'] == ('--preprocess' in options) and len(about['labels']) in (10, 11)
