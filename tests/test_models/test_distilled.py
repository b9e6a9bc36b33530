"""Distillation: the loss by hand, the inputs of the teacher, and its isolation from everything else."""

import copy

import numpy as np
import pytest
import torch

pytest.importorskip('mmpretrain')

from mmengine.model import ExponentialMovingAverage

from mmmobilemamba.models.checkpoint import CheckpointError
from mmmobilemamba.models.classifiers.distilled import distillation_loss

from .distillation import (
    CLASSES,
    MEAN,
    STD,
    TEACHER_MEAN,
    TEACHER_STD,
    batch,
    build,
    distilled_cfg,
    randomize,
    save_teacher,
    student_cfg,
    teacher_cfg,
)

AUGMENTS = dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)])


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp('teacher'))


def ready(checkpoint, **kwargs):
    """A student with a teacher in training mode, both with random weights in every branch."""
    model = build(distilled_cfg(teacher_cfg(checkpoint), **kwargs))
    model.init_weights()
    return randomize(model, seed=2).train()


def spy(model):
    """A list that collects the inputs of the teacher."""
    seen = []
    model.teacher.classifier.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    return seen


def log_softmax(logits):
    logits = np.asarray(logits, dtype=np.float64)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def bicubic(size_in, size_out):
    """Matrix (out, in) of cubic convolution with a = -0.75, aligned pixel centres and repeated edges."""
    matrix = np.zeros((size_out, size_in))
    for row in range(size_out):
        centre = (row + 0.5) * size_in / size_out - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            x = abs(centre - tap)
            near, far = 1.25 * x**3 - 2.25 * x**2 + 1, -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
            matrix[row, min(max(tap, 0), size_in - 1)] += near if x <= 1 else far
    return matrix


def test_distillation_loss_of_two_classes():
    """Teacher (1/4, 3/4), student (1/2, 1/2); with tau = 2, the odds of the teacher are sqrt(3)."""
    student, teacher = torch.tensor([[7.0, 7.0]]), torch.tensor([[2.0, 2.0 + np.log(3)]])
    expected = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    assert distillation_loss(student, teacher, 1.0).item() == pytest.approx(expected, rel=1e-5)
    first = 1 / (1 + np.sqrt(3))
    expected = 4 * (first * np.log(2 * first) + (1 - first) * np.log(2 * (1 - first)))
    assert distillation_loss(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-5)
    twice = distillation_loss(torch.cat([student, teacher]), torch.cat([teacher, teacher]), 2.0)
    assert twice.item() == pytest.approx(expected / 2, rel=1e-5)  # averaged over the images


@pytest.mark.parametrize('size, kd_weight, tau', [(80, 5.0, 1.0), (48, 2.0, 3.0)])
def test_loss_by_hand(checkpoint, size, kd_weight, tau):
    """The student's batch norms are in training mode, so its logits must come from the same batch."""
    np.random.seed(0)
    model = ready(checkpoint, teacher_size=size, kd_weight=kd_weight, tau=tau, train_cfg=AUGMENTS)
    seen, student_logits = spy(model), []
    model.head.register_forward_hook(lambda module, args, output: student_logits.append(output))
    data = model.data_preprocessor(batch(labels=(1, 3, 0)), training=True)
    scores = np.stack([sample.gt_score.numpy() for sample in data['data_samples']])
    assert (scores > 0).sum(1).max() == 2  # mixed
    losses = model(**data, mode='loss')
    assert sorted(losses) == ['loss', 'loss_kd'] and len(student_logits) == 1

    images = data['inputs'].double().numpy() * np.reshape(STD, (3, 1, 1)) + np.reshape(MEAN, (3, 1, 1))
    images = (images - np.reshape(TEACHER_MEAN, (3, 1, 1))) / np.reshape(TEACHER_STD, (3, 1, 1))
    resize = bicubic(64, size)
    images = resize @ images @ resize.T
    np.testing.assert_allclose(seen[0].numpy(), images, atol=2e-5)

    fresh = build(teacher_cfg())
    fresh.load_state_dict(torch.load(checkpoint)['state_dict'])
    teacher_logits = fresh.eval()(torch.from_numpy(images).float()).detach().numpy()
    logits = student_logits[0].detach().numpy()
    teacher, student = log_softmax(teacher_logits / tau), log_softmax(logits / tau)
    divergence = sum(np.exp(t) * (t - s) for t, s in zip(teacher.ravel(), student.ravel())) / 3
    assert divergence > 0.01
    assert losses['loss_kd'].item() == pytest.approx(kd_weight * tau**2 * divergence, rel=1e-4)
    (gradient,) = torch.autograd.grad(losses['loss_kd'], student_logits[0], retain_graph=True)
    np.testing.assert_allclose(gradient, kd_weight * tau * (np.exp(student) - np.exp(teacher)) / 3, atol=1e-5)
    smooth = 0.9 * scores + 0.1 / CLASSES
    assert losses['loss'].item() == pytest.approx(-(smooth * log_softmax(logits)).sum() / 3, rel=1e-5)
    total, _ = model.parse_losses(losses)
    assert total.item() == pytest.approx(losses['loss'].item() + losses['loss_kd'].item())


def test_teacher_sees_raw_images_of_its_own_size(checkpoint):
    """The teacher gets RGB values 0 to 255 as loaded, without resizing."""
    model = ready(checkpoint, teacher_size=64)
    seen, data = spy(model), batch()
    model(**model.data_preprocessor(copy.deepcopy(data), training=True), mode='loss')
    expected = (data['inputs'].flip(1) - torch.tensor(TEACHER_MEAN).view(3, 1, 1)) / torch.tensor(
        TEACHER_STD
    ).view(3, 1, 1)
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=2e-6)


def test_student_without_normalisation(checkpoint):
    model = ready(checkpoint, teacher_size=64, data_preprocessor=dict(to_rgb=True))
    seen, data = spy(model), batch()
    model(**model.data_preprocessor(data, training=True), mode='loss')
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (TEACHER_MEAN, TEACHER_STD))
    torch.testing.assert_close(seen[0], (data['inputs'].flip(1) - mean) / std)


def test_student_is_a_plain_classifier(checkpoint):
    plain, model = build(student_cfg()), ready(checkpoint)
    for names in ('named_parameters', 'named_buffers', 'named_modules'):
        found, expected = ([name for name, _ in getattr(m, names)()] for m in (model, plain))
        assert found == expected
    assert list(model.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(model.state_dict())  # strictly
    data = model.data_preprocessor(batch())
    model.eval(), plain.eval()
    assert torch.equal(model(**data), plain(**data))
    for found, expected in zip(model(**data, mode='predict'), plain(**data, mode='predict')):
        assert torch.equal(found.pred_score, expected.pred_score)


def test_same_start_as_a_plain_classifier(checkpoint):
    """Building the teacher does not change the student's random numbers."""
    starts = []
    for cfg in (student_cfg(), distilled_cfg(teacher_cfg(checkpoint))):
        torch.manual_seed(5)
        model = build(cfg)
        model.init_weights()
        starts.append(model.state_dict())
    assert all(torch.equal(starts[1][key], value) for key, value in starts[0].items())


def test_teacher_is_frozen(checkpoint):
    model = ready(checkpoint)
    teacher = model.teacher.classifier
    before = copy.deepcopy(teacher.state_dict())
    start = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    sum(model(**model.data_preprocessor(batch(), training=True), mode='loss').values()).backward()
    optimizer.step()
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, start[key])]
    assert {'head.head.linear.weight', 'backbone.stem.0.conv.weight', 'head.head.bn.running_mean'} <= set(
        changed
    )


def test_copies_share_the_teacher(checkpoint):
    model = ready(checkpoint)
    averaged = ExponentialMovingAverage(model, momentum=0.1, update_buffers=True)
    assert averaged.module.teacher is model.teacher
    assert averaged.module.head is not model.head
    assert set(averaged.avg_parameters) == set(model.state_dict())
    averaged.update_parameters(model)
    assert not any(p.requires_grad for p in model.teacher.classifier.parameters())
    early = build(distilled_cfg(teacher_cfg(checkpoint)))
    later = copy.deepcopy(early)
    early.init_weights()
    assert later.teacher.classifier is early.teacher.classifier is not None


def test_teacher_keeps_its_precision_and_follows_the_images(checkpoint):
    model = ready(checkpoint)
    teacher = model.teacher.classifier
    model.to(torch.float64)
    assert {p.dtype for p in teacher.parameters()} == {torch.float32}
    assert model.teacher(torch.zeros(2, 3, 64, 64)).device.type == 'cpu'
    assert model.teacher(torch.zeros(2, 3, 64, 64, device='meta')).device.type == 'meta'
    assert {p.device.type for p in teacher.parameters()} == {'meta'}


def test_autocast(checkpoint):
    """Both networks run in bfloat16, the KL divergence in float32."""
    model = ready(checkpoint)
    outputs = []
    for head in (model.head, model.teacher.classifier.head):
        head.register_forward_hook(lambda module, args, output: outputs.append(output.detach()))
    data = model.data_preprocessor(batch(), training=True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = model(**data, mode='loss')
    assert [output.dtype for output in outputs] == [torch.bfloat16] * 2
    assert losses['loss_kd'].dtype == torch.float32
    student, teacher = (log_softmax(output.double().numpy()) for output in outputs)
    expected = 5 * (np.exp(teacher) * (teacher - student)).sum() / 2
    assert losses['loss_kd'].item() == pytest.approx(expected, rel=1e-4)
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_testing_needs_no_teacher(tmp_path):
    missing = tmp_path / 'missing.pth'
    model = build(distilled_cfg(teacher_cfg(missing))).eval()
    data = model.data_preprocessor(batch())
    assert len(model(**data, mode='predict')) == 2 and model(**data).shape == (2, CLASSES)
    assert model.teacher.classifier is None
    with pytest.raises(FileNotFoundError, match=r'missing\.pth'):
        model.init_weights()


def test_the_first_loss_builds_the_teacher(checkpoint):
    model, early = build(distilled_cfg(teacher_cfg(checkpoint))), ready(checkpoint)
    model.load_state_dict(early.state_dict())
    data = model.data_preprocessor(batch(), training=True)
    assert torch.equal(model(**data, mode='loss')['loss_kd'], early(**data, mode='loss')['loss_kd'])
    first = model.teacher.classifier
    model(**data, mode='loss')
    assert model.teacher.classifier is first


def test_an_instance_is_taken_as_it_is():
    teacher = randomize(build(teacher_cfg()), seed=1).train()
    weights = copy.deepcopy(teacher.state_dict())
    model = build(distilled_cfg(teacher))
    model.init_weights()
    assert model.teacher.classifier is teacher and not teacher.training
    assert all(torch.equal(value, weights[key]) for key, value in teacher.state_dict().items())


@pytest.mark.parametrize('prefix', ['', 'student.'])
def test_checkpoint_below_a_prefix(tmp_path, checkpoint, prefix):
    weights = torch.load(checkpoint)['state_dict']
    torch.save({prefix + key: value for key, value in weights.items()}, tmp_path / 'prefixed.pth')
    cfg = teacher_cfg(tmp_path / 'prefixed.pth')
    if prefix:
        cfg['init_cfg']['prefix'] = prefix
    model = build(distilled_cfg(cfg))
    model.init_weights()
    assert all(torch.equal(v, weights[k]) for k, v in model.teacher.classifier.state_dict().items())


def test_checkpoint_that_does_not_fit(tmp_path, checkpoint):
    weights = torch.load(checkpoint)['state_dict']
    damage = dict(
        missing=lambda sd: sd.pop('head.head.linear.bias'),
        unexpected=lambda sd: sd.update(extra=torch.zeros(1)),
        shape=lambda sd: sd.update({'head.head.linear.bias': torch.zeros(7)}),
    )
    for name, change in damage.items():
        changed = dict(weights)
        change(changed)
        torch.save(changed, tmp_path / f'{name}.pth')
        model = build(distilled_cfg(teacher_cfg(tmp_path / f'{name}.pth')))
        with pytest.raises(CheckpointError, match=rf'{name}\.pth was not loaded into the teacher'):
            model.init_weights()
        assert model.teacher.classifier is None


def test_wrong_teachers(checkpoint):
    def refused(error, match, teacher):
        with pytest.raises(error, match=match):
            build(distilled_cfg(teacher)).init_weights()

    refused(TypeError, 'To train without one, use ImageClassifier', None)
    refused(ValueError, 'ImageClassifier names no weights', teacher_cfg())
    refused(TypeError, 'must be a classifier of mmpretrain, not GlobalAveragePooling',
            dict(type='GlobalAveragePooling'))  # fmt: skip
    for key, match in (('mean', 'states no normalisation'), ('to_rgb', 'student has to_rgb=True')):
        cfg = teacher_cfg(checkpoint)
        del cfg['data_preprocessor'][key]
        refused(ValueError, match, cfg)
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'teacher'"):
        build(student_cfg(type='DistilledClassifier'))


def test_other_classes_than_the_teacher(tmp_path):
    teacher = build(teacher_cfg(num_classes=7))
    torch.save(teacher.state_dict(), tmp_path / 'seven.pth')
    model = build(distilled_cfg(teacher_cfg(tmp_path / 'seven.pth', num_classes=7)))
    data = model.data_preprocessor(batch(), training=True)
    with pytest.raises(ValueError, match=r'logits of shape \(2, 5\), the teacher \(2, 7\)'):
        model(**data, mode='loss')


def test_wrong_arguments(checkpoint):
    for kwargs, match in (
        (dict(kd_weight=-1), 'kd_weight must be 0 or more, not -1'),
        (dict(tau=0), 'tau must be more than 0, not 0'),
        (dict(teacher_size=0), 'teacher_size must be a number of pixels from 1 up, not 0'),
    ):
        with pytest.raises(ValueError, match=match):
            build(distilled_cfg(teacher_cfg(checkpoint), **kwargs))


@pytest.mark.parametrize(
    'head',
    [
        dict(type='LeViTClsHead', num_classes=CLASSES, in_channels=64),  # two sets of logits
        dict(type='MultiLabelLinearClsHead', num_classes=CLASSES, in_channels=64),
        dict(type='ArcFaceClsHead', num_classes=CLASSES, in_channels=64),
    ],
)
def test_wrong_heads(checkpoint, head):
    with pytest.raises(TypeError, match=f'one set of logits.*not {head["type"]}'):
        build(distilled_cfg(teacher_cfg(checkpoint), head=head)).init_weights()


def test_linear_head(checkpoint):
    head = dict(type='LinearClsHead', num_classes=CLASSES, in_channels=64)
    model = ready(checkpoint, head=head)
    losses = model(**model.data_preprocessor(batch(), training=True), mode='loss')
    assert sorted(losses) == ['loss', 'loss_kd']
