"""Training, interruption, resumption and testing through mim, on a handful of digits scenes."""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmmobilemamba.compat import allow_runner_checkpoints
from mmmobilemamba.models.checkpoint import read_checkpoint

from .commands import environment, run
from .conftest import ROOT, load_script
from .helpers import write_digits_start

pytestmark = pytest.mark.slow
CONFIG = ROOT / 'configs/retinanet/retinanet_mobilemamba-t2_fpn_2e_digits.py'
SEGMENTOR = ROOT / 'configs/sem_fpn/mobilemamba-t2_fpn_1xb4-2k_digits-224x224.py'


def scalars(work_dir):
    """All logged scalars, oldest run first."""
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """A folder to work from, with 24 training and 8 validation scenes and the weights to start from."""
    folder = tmp_path_factory.mktemp('mim')
    script = load_script('tools/dataset_converters/digits_scenes.py')
    script.main([str(folder / 'data/digits_scenes'), '--train', '24', '--val', '8'])
    write_digits_start(folder)
    return folder


def train_command(work_dir):
    options = ('train_cfg.max_epochs=3', 'train_cfg.val_interval=1', 'default_hooks.logger.interval=1')
    options += ('model.test_cfg.score_thr=0.0',)  # scores are low after such a short training
    command = ('mim', 'train', 'mmdet', CONFIG, '--gpus', '0', '--work-dir', work_dir)
    return (*command, '--cfg-options', *options)


@pytest.fixture(scope='module')
def resumed(scenes):
    """A training of 3 epochs of 3 iterations, killed after the first epoch and resumed."""
    work_dir = scenes / 'work'
    with open(scenes / 'train.log', 'w') as log:
        process = subprocess.Popen(
            [str(part) for part in train_command(work_dir)],
            cwd=scenes,
            env=environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.time() + 240
        while '[2][1/3]' not in (scenes / 'train.log').read_text():  # epoch 1 has been saved and validated
            running = process.poll() is None and time.time() < deadline
            assert running, (scenes / 'train.log').read_text()[-3000:]
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = read_checkpoint((work_dir / 'last_checkpoint').read_text())
    # No score can exceed this one, so it is still there at the end only if it was restored.
    before['message_hub']['runtime_info']['best_score'] = 0.99
    torch.save(before, (work_dir / 'last_checkpoint').read_text())
    command = list(train_command(work_dir))
    command.insert(command.index('--work-dir'), '--resume')
    return work_dir, before, run(*command, cwd=scenes)


def test_resume_goes_on_where_it_stopped(resumed):
    allow_runner_checkpoints()
    work_dir, before, output = resumed
    epoch, iteration = before['meta']['epoch'], before['meta']['iter']
    assert 1 <= epoch < 3 and iteration == 3 * epoch
    assert f'resumed epoch: {epoch}, iter: {iteration}' in output

    after = read_checkpoint(work_dir / 'epoch_3.pth')
    assert (after['meta']['epoch'], after['meta']['iter']) == (3, 9)
    steps = {float(state['step']) for state in after['optimizer']['state'].values()}
    assert steps == {9.0}  # AdamW's step count continues, so its state was restored
    assert {float(state['step']) for state in before['optimizer']['state'].values()} == {float(iteration)}
    assert after['param_schedulers'][1]['last_step'] == 8  # the ninth and last step

    assert after['message_hub']['runtime_info']['best_score'] == 0.99


def test_resumed_learning_rate(resumed):
    """Equal to an uninterrupted run: warm-up over 100 iterations times cosine over 9."""
    work_dir, before, _ = resumed
    rates = {row['step']: row['base_lr'] for row in scalars(work_dir) if 'base_lr' in row}
    assert set(rates) == set(range(1, 10))
    stored = before['param_schedulers']
    first = before['meta']['iter'] + 1
    assert rates[first] == pytest.approx(stored[1]['_last_value'][0], rel=1e-6)
    assert rates[1] == pytest.approx(2e-3 * 1e-2, rel=1e-6)
    assert all(rates[step] > 0 for step in rates)


def test_test_and_pictures(resumed, scenes):
    """`mim test` reads the Runner's checkpoint, and pictures are drawn for every scene."""
    work_dir, _, _ = resumed
    predictions = scenes / 'predictions.pkl'
    output = run(
        *('mim', 'test', 'mmdet', CONFIG, '--checkpoint', work_dir / 'epoch_3.pth', '--gpus', '0'),
        *('--work-dir', work_dir, '--out', predictions, '--cfg-options', 'model.test_cfg.score_thr=0.0'),
        cwd=scenes,
    )
    assert 'Average Precision  (AP) @[ IoU=0.50:0.95' in output
    script = ROOT / 'tools/analysis_tools/draw_predictions.py'
    command = ('python', script, CONFIG, predictions, scenes / 'pictures', '--number', 8)
    output = run(*command, cwd=scenes, fresh=True)
    pictures = sorted((scenes / 'pictures').glob('*.png'))
    assert len(pictures) == 9
    assert str(scenes / 'pictures' / 'overview.png') in output.splitlines()[-1]

    from PIL import Image

    one = Image.open(next(path for path in pictures if path.name != 'overview.png'))
    assert one.size == (2 * 480 + 8, 480 + 22)
    assert Image.open(scenes / 'pictures' / 'overview.png').size == (2 * (968 + 8) + 8, 4 * (502 + 8) + 8)


def train_segmentor(scenes, iterations, *options):
    """Train up to a number of iterations; returns mim's output and the checkpoint."""
    work_dir = scenes / 'segmentor'
    changes = (f'train_cfg.max_iters={iterations}', 'default_hooks.logger.interval=1')
    command = ('mim', 'train', 'mmseg', SEGMENTOR, '--gpus', '0', '--work-dir', work_dir, *options)
    output = run(*command, '--cfg-options', *changes, cwd=scenes)
    return output, read_checkpoint(work_dir / f'iter_{iterations}.pth')


def mean_iou(matrix):
    """mIoU in % of a confusion matrix (true classes by predicted classes)."""
    found = np.diag(matrix)
    with np.errstate(invalid='ignore'):  # classes that neither occur nor are predicted
        return 100 * np.nanmean(found / (matrix.sum(axis=0) + matrix.sum(axis=1) - found))


def test_segmentor(scenes, monkeypatch):
    """Two iterations, a third one after `--resume`, and a test with the score of the confusion matrix."""
    pytest.importorskip('mmseg')
    allow_runner_checkpoints()
    _, before = train_segmentor(scenes, 2)
    output, after = train_segmentor(scenes, 3, '--resume')
    assert 'resumed epoch: 0, iter: 2' in output
    for checkpoint, iterations in ((before, 2), (after, 3)):
        assert checkpoint['meta']['iter'] == iterations
        steps = {float(state['step']) for state in checkpoint['optimizer']['state'].values()}
        assert steps == {iterations}
    rows = [row for row in scalars(scenes / 'segmentor') if 'loss' in row]
    assert [row['step'] for row in rows] == [1, 2, 3]
    rates = [2e-3 * (0.01 + 0.99 * step / 49) for step in range(3)]  # the warm-up has 50 iterations
    assert [row['base_lr'] for row in rows] == pytest.approx(rates, rel=1e-6)

    run(
        *('mim', 'test', 'mmseg', SEGMENTOR, '--checkpoint', scenes / 'segmentor/iter_3.pth', '--gpus', '0'),
        *('--work-dir', scenes / 'segmentor_test', '--out', scenes / 'maps'),
        cwd=scenes,
    )
    (scores,) = (scenes / 'segmentor_test').glob('*/*.json')
    monkeypatch.chdir(scenes)
    tool = load_script('tools/analysis_tools/confusion_matrix_seg.py')
    matrix, classes = tool.gather(Config.fromfile(SEGMENTOR), scenes / 'maps')
    assert len(classes) == 11 and 0.9 * 8 * 160**2 < matrix.sum() <= 8 * 160**2
    assert mean_iou(matrix) == pytest.approx(json.loads(scores.read_text())['mIoU'], abs=0.006)
