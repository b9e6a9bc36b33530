"""Every config: parsing, its codebase's naming convention, inheritance, building, and metafiles."""

import json
import re
import subprocess
import sys
from functools import cache

import pytest
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmmobilemamba import MobileMamba
from mmmobilemamba.weights import weights_of

from .conftest import ROOT
from .test_runs.workplace import UNTRAINED

CONFIGS = sorted(path for path in (ROOT / 'configs').glob('*/*.py') if path.parent.name != '_base_')
TWINS = [path for path in CONFIGS if 'digits' in path.stem]
# These start from the digits classifier of one epoch, other twins from random weights.
PRETRAINED = {
    'retinanet_mobilemamba-t2_fpn_2e_digits',
    'mask-rcnn_mobilemamba-t2_fpn_1e_digits',
    'ssdlite_mobilemamba-t2_224-2e_digits',
    'faster-rcnn_mobilemamba-t2_fpn_2e_digits',
    'fcos_mobilemamba-t2_fpn_gn-head_2e_digits',
    'rtmdet_mobilemamba-t2_1xb8-2e_digits',
    'yolox_mobilemamba-t2_1xb8-2e_digits',
    *(
        f'mobilemamba-t2_{method}_1xb8-1k_digits-224x224'
        for method in ('deeplabv3', 'fpn', 'pspnet', 'segformer', 'upernet')
    ),
}
(START,) = (path for path in TWINS if '-pretrain_' in path.stem)
CODEBASES = dict(
    mobilemamba='mmpretrain',
    retinanet='mmdet',
    mask_rcnn='mmdet',
    ssd='mmdet',
    deeplabv3='mmseg',
    sem_fpn='mmseg',
    pspnet='mmseg',
    **dict.fromkeys(('faster_rcnn', 'fcos', 'rtmdet', 'yolox', 'dino'), 'mmdet'),
    **dict.fromkeys(('upernet', 'segformer', 'mask2former'), 'mmseg'),
)
ARCH = r'mobilemamba-(?P<arch>t2|t4|s6|b1|b2|b4)'
SEGMENTORS = dict(
    deeplabv3='deeplabv3',
    sem_fpn='fpn',
    pspnet='pspnet',
    upernet='upernet',
    segformer='segformer',
    mask2former='mask2former',
)
GPUS = r'(?P<gpus>\d+)xb(?P<batch>\d+)'
NAMES = dict(
    mobilemamba=rf'{ARCH}_{GPUS}(-(?P<epochs>\d+)e)?(-kd|-pretrain)?_(in1k|digits)(-(?P<size>\d+)px)?',
    retinanet=rf'retinanet_{ARCH}_fpn_((?P<times>1)x_coco|(?P<epochs>\d+)e_digits)',
    mask_rcnn=rf'mask-rcnn_{ARCH}_fpn_((?P<times>1)x_coco|(?P<epochs>\d+)e_digits)',
    faster_rcnn=rf'faster-rcnn_{ARCH}_fpn_((?P<times>1)x_coco|(?P<epochs>\d+)e_digits)',
    fcos=rf'fcos_{ARCH}_fpn_gn-head_((?P<times>1)x_coco|(?P<epochs>\d+)e_digits)',
    **{
        folder: rf'{method}_{ARCH}_{GPUS}-(?P<epochs>\d+)e_(coco|digits)'
        for folder, method in dict(rtmdet='rtmdet', yolox='yolox', dino='dino-4scale').items()
    },
    ssd=rf'ssdlite_{ARCH}_({GPUS}-)?(?P<size>\d+)-(?P<epochs>\d+)e_(coco|digits)',
    **{
        folder: rf'{ARCH}_{method}_{GPUS}-(?P<iterations>\d+k?)_(ade20k|digits)-(?P<size>\d+)x(?P=size)'
        for folder, method in SEGMENTORS.items()
    },
)
# Modules and what they register; each is imported by the module of its codebase.
MODULES = dict(
    RandomResizedCropAndInterpolation='mmmobilemamba.datasets',
    TrainEMAHook='mmmobilemamba.engine.hooks',
    DistilledClassifier='mmmobilemamba.models.classifiers',
    SSDLiteHead='mmmobilemamba.models.dense_heads',
    MobileMambaClsHead='mmmobilemamba.models.heads',
    DeconvFPN='mmmobilemamba.models.necks',
    ContiguousSegVisualizer='mmmobilemamba.visualization',
)
IMPORT = """
import sys, warnings
warnings.simplefilter('ignore')
import mmmobilemamba.{codebase} as module
import {codebase}
assert '.' not in {codebase}.__name__ and module.__name__ == 'mmmobilemamba.{codebase}'
print(*sorted(name for name in sys.modules if name.startswith('mmmobilemamba.')))
"""
PARSE = """
import json, os, sys, warnings
warnings.simplefilter('ignore')
from mmengine.config import Config
assert not os.listdir()
print(json.dumps({path: Config.fromfile(path).to_dict()['custom_imports'] for path in sys.argv[1:]}))
"""


@cache
def resolve(path):
    return Config.fromfile(path)


def load(path):
    """A copy of a config, with its codebase as the default scope."""
    codebase = CODEBASES[path.parent.name]
    pytest.importorskip(codebase)
    config = resolve(path).copy()
    init_default_scope(codebase)
    return config


def each(paths=CONFIGS):
    return pytest.mark.parametrize('path', paths, ids=lambda path: path.stem)


def test_parse_from_an_empty_folder_in_a_fresh_process(tmp_path):
    for codebase in set(CODEBASES.values()):
        pytest.importorskip(codebase)
    result = subprocess.run(
        [sys.executable, '-c', PARSE, *map(str, CONFIGS)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert set(found) == set(map(str, CONFIGS)) and len(found) >= 19 + len(UNTRAINED) + len(TWINS) >= 34
    assert not any(imports['allow_failed_imports'] for imports in found.values())


@cache
def imported_by(codebase):
    """Modules of the package that ``mmmobilemamba.<codebase>`` imports in a fresh process."""
    command = [sys.executable, '-c', IMPORT.format(codebase=codebase)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return result.stdout.splitlines()[-1].split()


@each()
def test_one_import_is_enough(path):
    """Otherwise, a config would only work after another one that imports the missing module."""
    config = load(path)
    assert config.custom_imports.imports == [f'mmmobilemamba.{CODEBASES[path.parent.name]}']
    needed = {module for name, module in MODULES.items() if f"'{name}'" in str(config.to_dict())}
    assert needed <= set(imported_by(CODEBASES[path.parent.name]))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_inference_reads_as_the_test_does(path):
    """mmseg's ``inference_model`` reads ``test_pipeline``, others the pipeline of ``test_dataloader``."""
    config = resolve(path)
    read, tested = (
        [{key: value for key, value in step.items() if key != '_scope_'} for step in steps]
        for steps in (config.test_pipeline, config.test_dataloader.dataset.pipeline)
    )
    assert read == tested


@pytest.mark.parametrize('module', ['mmmobilemamba', *MODULES.values()])
def test_the_parts_may_be_listed(module):
    """Configs from before ``mmmobilemamba.<codebase>`` list individual modules."""
    for codebase in set(CODEBASES.values()):
        pytest.importorskip(codebase)
    imports = dict(imports=['mmmobilemamba', module], allow_failed_imports=False)
    Config.fromstring(f'custom_imports = {imports}', '.py')


def inherited(path):
    """The config in the same folder that a config inherits, or None."""
    match = re.search(r"'\./([^']+\.py)'", path.read_text())
    return path.parent / match[1] if match else None


@each()
def test_no_leftovers(path):
    """No settings of the inherited configs' backbones are left; TResNet is the teacher."""
    config = load(path)
    assert not re.search(r'(?<!t)resnet|mobilenet', str(config.to_dict()), re.IGNORECASE)
    assert config.default_scope == CODEBASES[path.parent.name]
    backbone = config.model.backbone
    pretrained = path.parent.name != 'mobilemamba' and path not in TWINS
    checkpoint = f'mobilemamba://{backbone.arch}'  # from plain training, as used by the authors
    expected = dict(type='Pretrained', checkpoint=checkpoint) if pretrained else None
    if path.stem in PRETRAINED:
        expected = dict(type='Pretrained', checkpoint=f'work_dirs/{START.stem}/epoch_1.pth')
    assert backbone.get('init_cfg') == expected
    assert not pretrained or weights_of(checkpoint).task == 'classification'


def sizes(config):
    """Height and width of a config's training images, wherever they are defined."""
    dataset = config.train_dataloader.dataset
    pipeline = dataset.get('dataset', dataset).pipeline
    if 'size' in config.model.get('data_preprocessor', {}):
        return config.model.data_preprocessor.size
    scales = [step['scale'] for step in pipeline if 'scale' in step]
    assert len(scales) == 1
    return (scales[0],) * 2 if isinstance(scales[0], int) else scales[0]


@each()
def test_name_says_what_it_is(path):
    match = re.fullmatch(NAMES[path.parent.name], path.stem)
    assert match, f'{path.stem} is not named like {NAMES[path.parent.name]}'
    said, config = match.groupdict(), load(path)
    assert config.model.backbone.arch == said['arch']
    if said.get('batch'):
        assert config.train_dataloader.batch_size == int(said['batch'])
    if said.get('gpus') and 'auto_scale_lr' in config:
        assert config.auto_scale_lr.base_batch_size == int(said['batch']) * int(said['gpus'])
    if said.get('iterations'):
        assert config.train_cfg.max_iters == int(said['iterations'].replace('k', '000'))
    elif path.parent.name == 'ssd' and 'coco' in path.stem:
        assert config.train_cfg.max_epochs * config.train_dataloader.dataset.times == int(said['epochs'])
    else:
        usual = 12 if said.get('times') else 300
        assert config.train_cfg.max_epochs == int(said['epochs'] or usual)
    if said.get('size'):
        assert tuple(sizes(config)) == (int(said['size']),) * 2


@each()
def test_build_and_initialise(path):
    """A plain model of its codebase with finite values; a teacher has no weights yet."""
    config = load(path)
    config.model.backbone.init_cfg = None
    model = MODELS.build(config.model)
    plain = {key: config.model[key] for key in ('type', 'model_type') if key in config.model}
    assert type(model).__name__ == plain.get('model_type', plain['type'])
    assert isinstance(model.backbone, MobileMamba)
    kinds = type(model).__mro__ if 'teacher' in config.model else (None, type(model))
    kinds[1].init_weights(model)
    assert model.is_init and model.backbone.is_init
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert not any('teacher' in name for name in model.state_dict())


def types(config, path=''):
    """The ``type`` of each part of a model by its path, without weights, norms, necks and losses."""
    found = {}
    for key, value in config.items():
        if isinstance(value, dict) and key not in (
            'init_cfg',
            'norm_cfg',
            'neck',
            'teacher',
            'loss_decode',
            'loss_bbox',
        ):
            found.update(types(value, f'{path}.{key}'))
        elif key in ('type', 'model_type'):
            found[f'{path}.{key}'] = value
    return found


def decay(config):
    """The parameters that a recipe does not decay; learning rates depend on the size."""
    rules = dict(config.optim_wrapper.paramwise_cfg)
    keys = rules.pop('custom_keys', {})
    return rules, {key: rule['decay_mult'] for key, rule in keys.items() if 'decay_mult' in rule}


@each(TWINS)
def test_twin_inherits_the_recipe(path):
    parent = inherited(path)
    assert parent in CONFIGS and parent.parent == path.parent
    assert (
        'optimizer=dict(type' not in path.read_text()
        and "type='MobileMamba', arch='t2'" not in path.read_text()
    )
    twin, parent = load(path), load(parent)
    for key in ('type', 'betas', 'weight_decay', 'eps'):
        assert twin.optim_wrapper.optimizer.get(key) == parent.optim_wrapper.optimizer.get(key)
    assert decay(twin) == decay(parent)
    assert twin.train_cfg.get('type') == parent.train_cfg.get('type')
    assert twin.test_evaluator.type == parent.test_evaluator.type
    found, expected = types(twin.model), types(parent.model)
    if 'teacher' in twin.model:  # the distillation twin inherits the plain one
        assert (found.pop('.type'), expected.pop('.type')) == ('DistilledClassifier', 'ImageClassifier')
    assert found == expected


@each(TWINS)
def test_twin_scales_its_rate_by_its_own_batch(path):
    """With ``--auto-scale-lr``, which mmseg does not support."""
    config = load(path)
    assert ('auto_scale_lr' in config) == (config.default_scope != 'mmseg')
    if 'auto_scale_lr' in config:
        batch = config.train_dataloader.batch_size
        assert config.auto_scale_lr == dict(base_batch_size=batch, enable=False)


def test_twin_of_distillation_has_the_recipe_of_the_loss():
    twin, recipe = (load(path) for path in CONFIGS if re.search(r'-t2_.*-kd_(digits|in1k)', path.stem))
    weights = {key: twin.model[key] for key in ('kd_weight', 'tau')}
    assert weights == {key: recipe.model[key] for key in weights} == dict(kd_weight=5.0, tau=1.0)


@each(TWINS)
def test_twin_reads_the_digits(path):
    """Training and test data are in the same folder, have ten classes, and are never flipped."""
    config = load(path)
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        dataset = loader.dataset.get('dataset', loader.dataset)
        assert dataset.data_root.startswith('data/digits_scenes/')
        assert tuple(dataset.metainfo.classes)[-10:] == config.names and len(config.names) == 10
        flips = [step for step in dataset.pipeline if 'Flip' in step['type']]
        assert all(step['prob'] == 0 for step in flips)
    assert config.optim_wrapper.type == 'OptimWrapper'


@each()
def test_every_recipe_says_what_is_wrong_with_small_data(path):
    config = load(path)
    assert config.default_hooks.training_check == dict(type='TrainingCheckHook')
    assert config.runner_type == 'PortableRunner'


@each()
def test_listed_once(path):
    listed = yaml.safe_load((path.parent / 'metafile.yml').read_text())['Models']
    entries = [model for model in listed if model['Config'] == str(path.relative_to(ROOT))]
    assert [model['Name'] for model in entries] == [path.stem]


@pytest.mark.parametrize('folder', CODEBASES)
def test_metafiles_list_nothing_else(folder):
    listed = yaml.safe_load((ROOT / 'configs' / folder / 'metafile.yml').read_text())['Models']
    assert all((ROOT / model['Config']).is_file() for model in listed)
    assert {path.parent.name for path in CONFIGS} == set(CODEBASES)
