"""Loading and resuming Runner checkpoints with torch's allow-list."""

import copy
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner

from mmmobilemamba import compat

STATISTICS = ('current', 'max', 'mean', 'min')
BASE_LR = 0.01

needs_list = pytest.mark.skipif(
    torch.__version__ < '2.6', reason='torch before 2.6 does not check what a checkpoint names'
)


@pytest.fixture(autouse=True)
def allowed():
    compat.allow_runner_checkpoints()


# A minimal training run.


class Line(BaseModel):
    """Fits y = 2 x + 1."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)

    def forward(self, x, y, mode='tensor'):
        error = self.linear(x) - y
        return {'loss': (error**2).mean()} if mode == 'loss' else [error.detach()]


class SquaredError(BaseMetric):
    """Returns a NumPy scalar, as mmseg's IoUMetric does; it is saved as the best score."""

    def process(self, data_batch, data_samples):
        self.results += [sample.numpy() ** 2 for sample in data_samples]

    def compute_metrics(self, results):
        return {'mse': np.float64(np.concatenate(results).mean())}


class Recorder(Hook):
    """Records the state at the start of training, after resuming, and every loss."""

    priority = 'LOWEST'

    def __init__(self):
        self.losses = []

    def before_train(self, runner):
        self.start = state_of(runner)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(outputs['loss'].item())


def state_of(runner):
    """Copy everything that resuming has to restore."""
    return {
        'epoch': runner.epoch,
        'iter': runner.iter,
        'lr': runner.optim_wrapper.get_lr()['lr'],
        'weights': copy.deepcopy(runner.model.state_dict()),
        'optimizer': copy.deepcopy(runner.optim_wrapper.state_dict()),
        'schedulers': [copy.deepcopy(scheduler.state_dict()) for scheduler in runner.param_schedulers],
        'scalars': {key: value.data for key, value in runner.message_hub.log_scalars.items()},
        'info': dict(runner.message_hub.runtime_info),
        'ema': copy.deepcopy(ema_of(runner)),
    }


def ema_of(runner):
    return next(hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook').ema_model.state_dict()


def train(work_dir, epochs, **kwargs):
    """Train on the CPU; returns the Runner and its recorder."""
    torch.manual_seed(0)
    data = [{'x': torch.tensor([i / 8]), 'y': torch.tensor([2 * i / 8 + 1])} for i in range(8)]
    loader = dict(
        dataset=data,
        batch_size=4,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )
    recorder = Recorder()
    runner = Runner(
        model=Line(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        val_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=1),
        val_cfg=dict(),
        val_evaluator=Evaluator(SquaredError()),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=BASE_LR)),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.5, begin=0, end=5),
            dict(type='MultiStepLR', milestones=[20]),
        ],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, save_best='mse', rule='less')),
        custom_hooks=[dict(type='EMAHook'), recorder],
        default_scope='mmengine',
        randomness=dict(seed=0),
        log_level='ERROR',
        # Message hub and logger exist per experiment name until the process ends.
        experiment_name=f'test_compat_{work_dir.name}_{os.urandom(4).hex()}',
        **kwargs,
    )
    runner.train()
    return runner, recorder


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A training of two epochs: its final state, losses and checkpoint."""
    work_dir = tmp_path_factory.mktemp('two_epochs')
    runner, recorder = train(work_dir, 2)
    return {'end': state_of(runner), 'losses': recorder.losses, 'file': work_dir / 'epoch_2.pth'}


def in_new_process(code, *args):
    """Run Python code in a process that has not imported this package."""
    command = [sys.executable, '-c', code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def assert_same(actual, expected):
    """Compare nested states, tensors and arrays bit by bit."""
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key in expected:
            assert_same(actual[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected):
            assert_same(one, other)
    elif isinstance(expected, torch.Tensor):
        assert actual.dtype == expected.dtype
        assert torch.equal(actual, expected)
    elif isinstance(expected, np.ndarray):
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)
    else:
        assert actual == expected


# Loading a Runner's checkpoint.


@needs_list
def test_torch_alone_refuses_the_checkpoint(trained):
    result = in_new_process('import sys, torch; torch.load(sys.argv[1])', trained['file'])
    assert result.returncode == 1
    assert 'UnpicklingError' in result.stderr
    assert 'HistoryBuffer was not an allowed global' in result.stderr


@needs_list
def test_importing_the_package_is_enough(trained):
    code = (
        'import sys, torch, mmmobilemamba\n'
        'buffer = torch.load(sys.argv[1], weights_only=True)["message_hub"]["log_scalars"]["train/loss"]\n'
        'print(repr(float(buffer.mean())))\n'
        'print(sorted({"mmdet", "mmseg", "mmpretrain"} & set(sys.modules)))\n'
    )
    result = in_new_process(code, trained['file'])
    assert result.returncode == 0, result.stderr
    mean, codebases = result.stdout.splitlines()
    assert float(mean) == pytest.approx(np.mean(trained['losses']), rel=1e-12)
    assert codebases == '[]'


@needs_list
def test_the_list_is_what_the_checkpoint_names(trained):
    code = (
        'import sys, torch\n'
        'print(*sorted(torch.serialization.get_unsafe_globals_in_checkpoint(sys.argv[1])), sep="\\n")\n'
    )
    result = in_new_process(code, trained['file'])
    assert result.returncode == 0, result.stderr
    module = np.empty(0).__reduce__()[0].__module__
    expected = {
        'builtins.getattr',
        'mmengine.logging.history_buffer.HistoryBuffer',
        f'{module}._reconstruct',
        f'{module}.scalar',
        'numpy.dtype',
        'numpy.ndarray',
    }
    assert set(result.stdout.split()) == expected
    assert torch.serialization.get_unsafe_globals_in_checkpoint(str(trained['file'])) == []


@needs_list
def test_the_checkpoint_loads_with_weights_only(trained):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        checkpoint = torch.load(trained['file'], weights_only=True)
    end = trained['end']

    assert checkpoint['meta']['epoch'] == 2
    assert checkpoint['meta']['iter'] == 4
    # The EMA hook swaps the two sets of weights in the file.
    assert_same(checkpoint['ema_state_dict']['module.linear.weight'], end['weights']['linear.weight'])
    assert_same(checkpoint['state_dict']['linear.weight'], end['ema']['module.linear.weight'])
    assert_same(checkpoint['optimizer'], end['optimizer'])
    assert_same(checkpoint['param_schedulers'], end['schedulers'])

    hub = checkpoint['message_hub']
    assert type(hub['runtime_info']['best_score']) is np.float64
    assert hub['runtime_info']['best_score'] == end['info']['best_score']
    losses = hub['log_scalars']['train/loss']
    assert type(losses) is HistoryBuffer
    assert losses.data[0].dtype == np.float64
    assert losses.data[0].tolist() == trained['losses']
    assert losses.data[1].tolist() == [1, 1, 1, 1]
    assert losses.statistics('mean', 2) == pytest.approx(np.mean(trained['losses'][-2:]), rel=1e-12)


def test_the_runner_resumes(trained, tmp_path):
    _, recorder = train(tmp_path, 2, resume=True, load_from=str(trained['file']))
    start, end = recorder.start, trained['end']

    assert recorder.losses == []  # both epochs were already completed
    assert (start['epoch'], start['iter']) == (2, 4)
    # From half to the full rate in four steps, two of which were completed.
    assert start['lr'] == pytest.approx([BASE_LR * 0.75], rel=1e-6)
    assert start['lr'] == end['lr']
    assert start['info']['best_score'] == end['info']['best_score']
    assert start['info']['best_ckpt'] == end['info']['best_ckpt']
    assert set(start['optimizer']['state']) == {0, 1}
    for moments in start['optimizer']['state'].values():
        assert moments['step'] == 4
        assert moments['exp_avg'].abs().max() > 0
    for part in ('weights', 'ema', 'optimizer', 'schedulers'):
        assert_same(start[part], end[part])
    assert start['scalars']['train/loss'][0].tolist() == trained['losses']
    assert start['scalars']['val/mse'][0].shape == (2,)
    for key in ('train/loss', 'train/lr', 'val/mse'):
        assert_same(start['scalars'][key], end['scalars'][key])


def test_resumed_training_goes_on_as_if_never_stopped(trained, tmp_path):
    whole, recorder_whole = train(tmp_path / 'whole', 4)
    resumed, recorder_resumed = train(tmp_path / 'resumed', 4, resume=True, load_from=str(trained['file']))

    assert recorder_whole.losses[:4] == trained['losses']
    assert recorder_whole.losses[4:] == recorder_resumed.losses
    assert len(recorder_resumed.losses) == 4
    assert_same(resumed.model.state_dict(), whole.model.state_dict())
    assert resumed.message_hub.get_info('best_score') == whole.message_hub.get_info('best_score')
