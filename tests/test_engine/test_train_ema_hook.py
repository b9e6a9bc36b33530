"""EMA during training, and tests of the averaged weights: plain, with TTA, and of other checkpoints."""

import copy

import pytest
import torch

pytest.importorskip('mmpretrain')

from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner

import mmmobilemamba.engine.hooks  # noqa: F401  registers the hook

from ..test_models.distillation import batch, build, student_cfg

LABELS = (0, 1, 2, 3)


class Scores(BaseMetric):
    """Keeps the scores of all images; the metric is their number."""

    def process(self, data_batch, data_samples):
        self.results += [sample['pred_score'] for sample in data_samples]

    def compute_metrics(self, results):
        self.scores = torch.stack(results)
        return dict(count=len(results))


def items(augmented=False):
    """Four images with labels, each with its mirror image if ``augmented``."""
    data = batch(labels=LABELS)
    pairs = zip(data['inputs'], data['data_samples'])
    if augmented:
        return [dict(inputs=[x, x.flip(-1)], data_samples=[sample, sample.clone()]) for x, sample in pairs]
    return [dict(inputs=x, data_samples=sample) for x, sample in pairs]


def loader(dataset):
    return dict(
        dataset=dataset,
        batch_size=2,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
        num_workers=0,
    )


def runner(work_dir, model, metric, augmented=False, **kwargs):
    """A Runner with the hook, for testing."""
    return Runner(
        model=model,
        work_dir=str(work_dir),
        test_dataloader=loader(items(augmented)),
        test_cfg=dict(),
        test_evaluator=Evaluator([metric]),
        custom_hooks=[
            dict(type='TrainEMAHook', momentum=0.5, evaluate_on_origin=True, priority='ABOVE_NORMAL')
        ],
        default_scope='mmpretrain',
        experiment_name=work_dir.name,
        log_level='ERROR',
        **kwargs,
    )


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A training of two epochs: its folder, its Runner, and the classifier with the averaged weights."""
    folder = tmp_path_factory.mktemp('train_ema')
    training = runner(
        folder,
        student_cfg(),
        Scores(),
        train_dataloader=loader(items()),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.001)),
        val_dataloader=loader(items()),
        val_cfg=dict(),
        val_evaluator=dict(type='Accuracy'),
        randomness=dict(seed=0),
    )
    training.train()
    average = build(student_cfg()).eval()
    average.load_state_dict(torch.load(folder / 'epoch_2.pth')['state_dict'])
    return folder, training, average


def scores_of(model, flip=False):
    """Probabilities for the four images."""
    inputs = batch(labels=LABELS)['inputs']
    data = model.data_preprocessor(dict(inputs=inputs.flip(-1) if flip else inputs))
    with torch.no_grad():
        return model(data['inputs']).softmax(1)


def test_training_validates_and_saves_both(trained):
    folder, training, average = trained
    logged = training.message_hub.log_scalars
    assert {'val/accuracy/top1', 'val/accuracy/top1_origin'} <= set(logged)
    checkpoint = torch.load(folder / 'epoch_2.pth')
    for name, parameter in training.model.named_parameters():
        assert torch.equal(checkpoint['ema_state_dict'][f'module.{name}'], parameter), name
    changes = [
        (one - other).abs().max() for one, other in zip(average.parameters(), training.model.parameters())
    ]
    assert max(changes) > 1e-4
    assert not torch.allclose(scores_of(average), scores_of(training.model.eval()), rtol=0, atol=1e-5)


def test_a_test_sees_the_average_once(trained, tmp_path):
    folder, _, average = trained
    metric = Scores()
    testing = runner(tmp_path, student_cfg(), metric, load_from=str(folder / 'epoch_2.pth'))
    assert testing.test() == dict(count=4)
    torch.testing.assert_close(metric.scores, scores_of(average))
    assert not any(key.endswith('_origin') for key in testing.message_hub.log_scalars)


def test_a_test_right_after_training(trained):
    """It uses the averaged weights and restores the trained ones afterwards."""
    _, training, average = trained
    before = [parameter.clone() for parameter in training.model.parameters()]
    training.test()
    torch.testing.assert_close(training.test_loop.evaluator.metrics[0].scores, scores_of(average))
    assert all(torch.equal(*pair) for pair in zip(before, training.model.parameters()))


def test_augmented(trained, tmp_path):
    """mmpretrain's hook would test random weights: the checkpoint has no keys of the wrapped model."""
    folder, _, average = trained
    metric = Scores()
    model = dict(type='AverageClsScoreTTA', module=student_cfg())
    runner(tmp_path, model, metric, augmented=True, load_from=str(folder / 'epoch_2.pth')).test()
    expected = (scores_of(average) + scores_of(average, flip=True)) / 2
    torch.testing.assert_close(metric.scores, expected)


def test_resumed(trained, tmp_path):
    """Both the average and the weights are restored."""
    folder, training, average = trained
    resumed = runner(
        tmp_path,
        student_cfg(),
        Scores(),
        train_dataloader=loader(items()),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.001)),
        load_from=str(folder / 'epoch_2.pth'),
        resume=True,
    )
    resumed.train()
    (hook,) = (hook for hook in resumed.hooks if type(hook).__name__ == 'TrainEMAHook')
    for ours, theirs in ((hook.ema_model.module, average), (resumed.model, training.model)):
        assert all(torch.equal(*pair) for pair in zip(ours.parameters(), theirs.parameters()))


class Begin(Hook):
    """Records the weights at the start of training."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        self.weights = copy.deepcopy(runner.model.state_dict())


def continued(work_dir, file, cfg, hooks=True, **kwargs):
    """A training of one epoch from a checkpoint: its Runner, and the initial weights."""
    begin = Begin()
    training = runner(
        work_dir,
        cfg,
        Scores(),
        train_dataloader=loader(items()),
        train_cfg=dict(by_epoch=True, max_epochs=kwargs.pop('max_epochs', 1)),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
        load_from=str(file),
        **kwargs,
    )
    training.register_hook(begin)
    if not hooks:
        training._hooks = [hook for hook in training.hooks if type(hook).__name__ != 'TrainEMAHook']
    training.train()
    return training, begin.weights


def average_of(training):
    (hook,) = (hook for hook in training.hooks if type(hook).__name__ == 'TrainEMAHook')
    return hook.ema_model


def test_fine_tuned_on_other_classes(trained, tmp_path, capsys):
    """Weights and new average start from the saved average; the mismatched head is reported once."""
    folder, _, average = trained
    training, begin = continued(
        tmp_path, folder / 'epoch_2.pth', student_cfg(head=dict(student_cfg()['head'], num_classes=4))
    )
    for name, value in average.backbone.state_dict().items():
        assert torch.equal(begin[f'backbone.{name}'], value), name
    for name, parameter in training.model.named_parameters():  # the learning rate is 0
        assert torch.equal(average_of(training).module.get_parameter(name), parameter), name
    text = capsys.readouterr().out
    assert text.count('do not match exactly') == 1
    assert 'head.head.linear.weight: copying a param with shape torch.Size([5, 64])' in text
    assert 'backbone' not in text.split('do not match exactly')[1]


def test_fine_tuned_without_the_hook(trained, tmp_path):
    folder, _, average = trained
    _, begin = continued(tmp_path, folder / 'epoch_2.pth', student_cfg(), hooks=False)
    assert all(torch.equal(begin[name], value) for name, value in average.state_dict().items())


def test_resumed_with_a_new_hook(trained, tmp_path, monkeypatch):
    """Resuming a run without the hook starts the average from the weights, with a log message."""
    folder, _, average = trained
    checkpoint = torch.load(folder / 'epoch_2.pth')
    del checkpoint['ema_state_dict']
    torch.save(checkpoint, tmp_path / 'plain.pth')
    told = []
    monkeypatch.setattr('mmengine.logging.MMLogger.warning', lambda self, text, *args: told.append(text))
    training, begin = continued(tmp_path, tmp_path / 'plain.pth', student_cfg(), resume=True, max_epochs=3)
    assert sum('has no moving average' in text for text in told) == 1
    assert training.iter == 6 and average_of(training).steps == 2  # starts at 0
    assert all(torch.equal(begin[name], value) for name, value in average.state_dict().items())
