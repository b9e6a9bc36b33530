"""mim's commands for this package, and the dispatch in ``tools/train.py`` and ``tools/test.py``."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmmobilemamba.models.checkpoint import read_checkpoint

from ..commands import free_port, run
from ..conftest import ROOT, load_script
from ..helpers import write_digits_start

train = load_script('tools/train.py')
SMALL = ('train_dataloader.dataset.indices=16', 'val_dataloader.dataset.indices=4')
SMALL += ('test_dataloader.dataset.indices=4', 'default_hooks.logger.interval=1')


def name_of(pattern):
    """Name of the only config whose path in ``configs`` matches a pattern."""
    (path,) = (ROOT / 'configs').glob(pattern)
    return path.name


CLASSIFIER = name_of('mobilemamba/mobilemamba-t2_*e_digits-*.py')
DETECTOR = name_of('retinanet/*2e_digits.py')
SEGMENTOR = name_of('sem_fpn/*2k_digits*.py')


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """16 training and 4 validation scenes, and the weights that digits configs start from."""
    folder = tmp_path_factory.mktemp('entry_points')
    script = load_script('tools/dataset_converters/digits_scenes.py')
    script.main([str(folder / 'data/digits_scenes'), '--train', '16', '--val', '4'])
    write_digits_start(folder)
    return folder


@pytest.mark.parametrize('tool', ['train.py', 'test.py'])
def test_help_imports_nothing_and_names_no_device(tool, tmp_path):
    """mim reads the help before every run, and passes devices on if it contains ``--gpus``."""
    code = (
        'import runpy, sys\n'
        f'path = sys.argv[0] = {str(ROOT / "tools" / tool)!r}\n'
        'sys.argv.append("-h")\n'
        f'sys.path[0] = {str(ROOT / "tools")!r}\n'
        'try:\n'
        '    runpy.run_path(path, run_name="__main__")\n'
        'except SystemExit as end:\n'
        '    assert not end.code\n'
        'print([name for name in ("torch", "mmengine", "numpy") if name in sys.modules])\n'
    )
    lines = run('python', '-c', code, cwd=tmp_path, fresh=True).splitlines()
    assert lines[-1] == '[]'
    assert lines[0].startswith(f'usage: {tool}')
    assert not any('--gpus' in line for line in lines)


@pytest.mark.parametrize('codebase', ['mmdet', 'mmseg', 'mmpretrain'])
def test_stock_tool(codebase):
    pytest.importorskip(codebase)
    tool = train.stock_tool(codebase, 'test.py')
    assert tool.parts[-4:] == (codebase, '.mim', 'tools', 'test.py')
    with pytest.raises(ValueError, match=rf'{codebase} has no .mim/tools/none.py; reinstall it'):
        train.stock_tool(codebase, 'none.py')


def test_stock_tool_of_an_editable_install(monkeypatch, tmp_path):
    """The tools of an editable installation are beside the package."""
    for name in ('mmdet/__init__.py', 'tools/train.py'):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    spec = importlib.util.spec_from_file_location('mmdet', tmp_path / 'mmdet/__init__.py')
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: spec)
    assert train.stock_tool('mmdet', 'train.py') == tmp_path / 'tools/train.py'


def test_what_cannot_be_run(tmp_path, monkeypatch):
    config = tmp_path / 'config.py'
    config.write_text("default_scope = 'mmtrack'\n")
    with pytest.raises(
        ValueError, match="default_scope 'mmtrack', but must have one of mmdet, mmseg, mmpretrain, mmaction,"
    ):
        train.load_config(config)
    with pytest.raises(ValueError, match='there is no config retinanet'):
        train.load_config('retinanet.py')
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ValueError, match='needs mmseg, which is not installed: `mim install mmseg`'):
        train.stock_tool('mmseg', 'train.py')
    with pytest.raises(ValueError, match='needs mmaction, which is not installed: `mim install mmaction2`'):
        train.stock_tool('mmaction', 'train.py')


def test_errors_are_short(tmp_path):
    command = ('python', ROOT / 'tools/train.py', '--work-dir', 'x', 'c.py')
    output = run(*command, cwd=tmp_path, fails=True, fresh=True)
    assert 'train.py: error: there is no config x. The config comes before the options' in output
    assert 'Traceback' not in output


def test_search_lists_every_config(tmp_path):
    command = ('mim', 'search', 'mmmobilemamba', '--field', 'config', '--json', tmp_path / 'models.json')
    run(*command, cwd=tmp_path)
    listed = json.loads((tmp_path / 'models.json').read_text())['config']
    configs = [path for path in (ROOT / 'configs').glob('*/*.py') if path.parent.name != '_base_']
    assert listed == {path.stem: path.relative_to(ROOT).as_posix() for path in configs}


def test_download_says_that_there_is_no_address(tmp_path):
    config = Path(CLASSIFIER).stem
    output = run(
        'mim', 'download', 'mmmobilemamba', '--config', config, '--dest', '.', cwd=tmp_path, fails=True
    )
    assert "Failed to parse: Host 'none at a public address; see checkpoints.md in docs'" in output
    assert not list(tmp_path.iterdir())


def test_get_flops_by_mim_run(tmp_path):
    config = next((ROOT / 'configs').glob(f'*/{CLASSIFIER}'))
    output = run('mim', 'run', 'mmmobilemamba', 'get_flops', config, cwd=tmp_path, fresh=True)
    assert re.search(r'^total +8,441,372 +29,092,584$', output, flags=re.MULTILINE)


@pytest.mark.slow
def test_train_and_test_by_bare_name(scenes):
    pytest.importorskip('mmpretrain')
    work_dir = scenes / 'work'
    small = ('--work-dir', work_dir, '--cfg-options', *SMALL)
    options = ('train_dataloader.batch_size=8', 'train_cfg.max_epochs=1', 'param_scheduler.warmup=0')
    output = run('mim', 'train', 'mmmobilemamba', CLASSIFIER, '--gpus', '0', *small, *options, cwd=scenes)
    assert 'mmmobilemamba/.mim/tools/train.py' in output.partition('Training command')[2].splitlines()[0]
    checkpoint = read_checkpoint(work_dir / 'epoch_1.pth')
    assert checkpoint['meta']['iter'] == 2

    command = ('mim', 'test', 'mmmobilemamba', CLASSIFIER, '--checkpoint', work_dir / 'epoch_1.pth')
    command += ('--out', scenes / 'scores.pkl', '--out-item', 'metrics', *small)
    run(*command, cwd=scenes, fresh=True)
    (score,) = [
        json.loads(path.read_text()) for path in work_dir.glob('*/*.json') if 'vis_data' not in path.parts
    ]
    assert score['accuracy/top1'] in (0, 25, 50, 75, 100)


@pytest.mark.slow
def test_two_processes_without_a_gpu(scenes):
    """16 images with batch size 4 are 4 iterations in one process, and 2 in two processes of torchrun."""
    pytest.importorskip('mmdet')
    work_dir = scenes / 'two'
    small = (*SMALL, 'train_dataloader.batch_size=4', 'train_cfg.max_epochs=1')
    command = ('mim', 'train', 'mmmobilemamba', DETECTOR, '--launcher', 'pytorch', '--gpus', '2')
    command += ('--port', free_port(), '--work-dir', work_dir, '--cfg-options', *small)  # mim's may be in use
    output = run(*command, cwd=scenes, fresh=True)
    assert 'Epoch(train) [1][2/2]' in output
    assert read_checkpoint(work_dir / 'epoch_1.pth')['meta']['iter'] == 2


@pytest.mark.slow
def test_two_processes_of_a_stock_tool(scenes):
    """mmpretrain's train.py, which does not support machines without a GPU, and its test.py.

    ``--amp`` is an option for GPUs as well, and means bfloat16 here.
    """
    pytest.importorskip('mmpretrain')
    work_dir, config = scenes / 'stock', next((ROOT / 'configs').glob(f'*/{CLASSIFIER}'))
    small = ('--work-dir', work_dir, '--cfg-options', *SMALL, 'train_dataloader.batch_size=4')
    short = ('train_cfg.max_epochs=1', 'param_scheduler.warmup=0')
    tool, launcher = train.stock_tool('mmpretrain', 'train.py'), ('--launcher', 'pytorch')
    command = ('python', tool, config, *launcher, '--amp', *small, *short)
    output = run(*command, cwd=scenes, processes=2)
    assert 'CPUAmpOptimWrapper, in bfloat16, stands in for AmpOptimWrapper' in output
    assert 'Epoch(train) [1][2/2]' in output
    checkpoint = work_dir / 'epoch_1.pth'
    assert read_checkpoint(checkpoint)['meta']['iter'] == 2

    command = ('python', tool.with_name('test.py'), config, checkpoint, *launcher, *small)
    output = run(*command, 'test_dataloader.batch_size=1', cwd=scenes, processes=2)
    assert 'Epoch(test) [2/2]' in output and 'accuracy/top1' in output


@pytest.mark.slow
def test_two_processes_share_a_test(scenes):
    """With mmseg's tool, each process predicts half of the images."""
    pytest.importorskip('mmseg')
    path = next((ROOT / 'configs').glob(f'*/{SEGMENTOR}'))
    init_default_scope('mmseg')
    model = MODELS.build(Config.fromfile(path).model)
    torch.save(dict(state_dict=model.state_dict()), scenes / 'segmentor.pth')
    command = ('python', ROOT / 'tools/test.py', path, 'segmentor.pth', '--launcher', 'pytorch')
    small = ('--work-dir', scenes / 'test', '--cfg-options', *SMALL, 'test_dataloader.batch_size=1')
    output = run(*command, *small, cwd=scenes, processes=2)
    assert 'Iter(test) [2/2]' in output
    assert re.search(r'mIoU: +\d', output)
