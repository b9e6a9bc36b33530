"""Recipes in mmengine's pure Python style (``type=Class``) equal those in text style."""

import copy
import inspect
import shutil

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')
pytest.importorskip('mmseg')

from mmmobilemamba.deployment import build, onnx_file
from mmmobilemamba.engine.runners import PortableRunner
from mmmobilemamba.utils import codebase_of, read_config

from .conftest import ROOT, load_script
from .helpers import SMALL, needs_export

PYTHON = sorted((ROOT / 'mmmobilemamba/configs').rglob('*.py'))
TEXT = {
    path.stem.replace('-', '_'): path
    for path in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in path.parts
}
# Keys that only text configs have: variables used in the rest of the file.
VARIABLES = {
    *('bgr_mean', 'bgr_std', 'epochs', 'backend_args', 'dataset_type', 'crop_size', 'img_ratios', 'norm_cfg'),
    *('vis_backends', 'data_preprocessor', 'rand_augment'),
}


def plain(value):
    """Replace classes by their names, and remove scopes."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items() if key != '_scope_'}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value.__name__ if inspect.isclass(value) or inspect.isfunction(value) else value


def is_imported(value):
    """Whether a variable of a config is an import."""
    return inspect.isclass(value) or inspect.isfunction(value)


@pytest.mark.parametrize('path', PYTHON, ids=lambda path: path.stem)
def test_recipes_are_those_in_text(path):
    configs = Config.fromfile(path), Config.fromfile(TEXT[path.stem])
    python, text = (
        plain({key: config[key] for key in config.keys() - VARIABLES if not is_imported(config[key])})
        for config in configs
    )
    assert python == text
    if codebase_of(configs[0]) == 'mmpretrain':  # elsewhere, it is in the model
        assert plain(configs[0].data_preprocessor) == plain(configs[1].data_preprocessor)


def test_one_of_each_task():
    assert {codebase_of(Config.fromfile(path)) for path in PYTHON} == {'mmpretrain', 'mmdet', 'mmseg'}


@pytest.mark.parametrize('path', PYTHON, ids=lambda path: path.stem)
def test_models(path):
    """Built models have the same layers and widths."""
    shapes = []
    for config in (Config.fromfile(path), Config.fromfile(TEXT[path.stem])):
        init_default_scope(config.default_scope)
        config = copy.deepcopy(config.model)
        config['backbone']['arch'] = 't2'
        config['backbone'].pop('init_cfg', None)
        model = MODELS.build(config)
        shapes.append({key: tuple(value.shape) for key, value in model.state_dict().items()})
    assert shapes[0] == shapes[1]


MINE = """
from mmengine.config import read_base

with read_base():
    from .mobilemamba_t2_8xb128_in1k import *

from mmpretrain.datasets import CustomDataset
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import ClsDataPreprocessor

default_scope = None
model.update(backbone=dict(model['backbone'], arch=SMALL))
model.update(head=dict(model['head'], num_classes=2, in_channels=64, topk=(1,)))
data_preprocessor.update(type=ClsDataPreprocessor, num_classes=2)
test_pipeline[1].update(scale=72)
test_pipeline[2].update(crop_size=64)
test_dataloader = dict(
    batch_size=2,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type=CustomDataset, data_root='data', pipeline=test_pipeline),
)
val_dataloader = test_dataloader
test_evaluator = dict(type=Accuracy, topk=(1,))
val_evaluator = test_evaluator
"""


@pytest.fixture(scope='module')
def mine(tmp_path_factory):
    """A config without scope that inherits a recipe, its checkpoint, and two folders with an image each."""
    folder = tmp_path_factory.mktemp('mine')
    shutil.copy(PYTHON[0], folder)
    for name in ('cat', 'dog'):
        (folder / 'data' / name).mkdir(parents=True)
        Image.new('RGB', (80, 90), 'red').save(folder / 'data' / name / '1.png')
    path = folder / 'mine.py'
    path.write_text(MINE.replace("'data'", repr(str(folder / 'data'))).replace('SMALL', repr(SMALL)))
    config = Config.fromfile(path)
    init_default_scope('mmpretrain')
    model = MODELS.build({**config.model, 'data_preprocessor': config.data_preprocessor})
    torch.save(dict(state_dict=model.state_dict()), folder / 'mine.pth')
    return path, folder / 'mine.pth'


def test_flops(mine, capsys):
    load_script('tools/analysis_tools/get_flops.py').main([str(mine[0])])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(': 64 x 64 pixels, 64 x 64 for the network')


def test_deployed_form(mine, tmp_path, capsys):
    tool = load_script('tools/model_converters/reparameterize_model.py')
    tool.main([*map(str, mine), str(tmp_path / 'deploy.pth')])
    assert 'model.backbone.deploy=True model.head.deploy=True' in capsys.readouterr().out
    assert len(torch.load(tmp_path / 'deploy.pth')['state_dict']) < len(torch.load(mine[1])['state_dict'])


def test_description(mine):
    """The metadata of an exported file are equal."""
    config = read_config(mine[0])
    about = build.describe(config, 'classification', build.load_model(config, mine[1]))
    assert about['labels'] == ['cat', 'dog'] and about['channels'] == 'RGB'
    assert about['load'] == dict(type='PillowLoadImageFromFile', color_type='color_ignore_orientation')
    assert [step['type'] for step in about['resize']] == ['ResizeEdge', 'CenterCrop']
    assert build.input_size(about) == (64, 64)


@needs_export
def test_scores_of_a_file(mine, tmp_path, capsys):
    """The data preprocessor is a class, which must be written to the test's log."""
    pytest.importorskip('onnxscript')
    config = read_config(mine[0])
    model = build.load_model(config, mine[1])
    about = dict(build.describe(config, 'classification', model), size=(64, 64), preprocessed=False)
    graph = build.make_graph(model, 'classification', 1)
    path = tmp_path / 'mine.onnx'
    onnx_file.write(onnx_file.to_onnx(graph, torch.zeros(2, 3, 64, 64), False), path, about)
    tool = load_script('tools/deployment/evaluate.py')
    tool.main([str(mine[0]), str(path), '--checkpoint', str(mine[1]), '--work-dir', str(tmp_path / 'work')])
    lines = capsys.readouterr().out.splitlines()
    # Two equal images of different classes.
    assert {'| ONNX Runtime | 50.0000 |', '| PyTorch | 50.0000 |'} <= set(lines)


def test_benchmark_and_training_tools(mine):
    models = load_script('tools/analysis_tools/benchmark_models.py')
    model = models.build(str(mine[0]))
    with torch.no_grad():
        assert model(torch.zeros(1, models.channels_of(model), 64, 64)).shape == (1, 2)
    train = load_script('tools/train.py')
    assert train.load_config(mine[0]).get('default_scope') is None
    assert codebase_of(Config.fromfile(mine[0])) == 'mmpretrain'


@pytest.mark.parametrize(
    ('config', 'expected'),
    [
        (dict(default_scope='mmseg'), 'mmseg'),
        (dict(model=dict(type='mmdet.RetinaNet')), 'mmdet'),
        (dict(model=dict(type='RetinaNet')), None),
        (dict(default_scope='mmpose'), None),
        (dict(), None),
    ],
)
def test_codebase_of_texts(config, expected):
    assert codebase_of(Config(config)) == expected


def test_mixed_precision_on_a_cpu_by_class():
    """PortableRunner also replaces AmpOptimWrapper if it is given as a class."""
    from mmengine.model import MMDistributedDataParallel
    from mmengine.optim import AmpOptimWrapper

    from mmmobilemamba.engine.runners import cpu_wrapper

    assert cpu_wrapper(dict(type=MMDistributedDataParallel))['device_ids'] is None
    runner = PortableRunner.__new__(PortableRunner)
    runner._log_level, runner.logger = 'INFO', MMLogger.get_instance('python_configs')
    runner.model = torch.nn.Linear(1, 1)
    wrapper = runner.build_optim_wrapper(dict(type=AmpOptimWrapper, optimizer=dict(type='SGD', lr=1)))
    assert type(wrapper).__name__ == (
        'AmpOptimWrapper' if torch.cuda.is_available() else 'CPUAmpOptimWrapper'
    )
