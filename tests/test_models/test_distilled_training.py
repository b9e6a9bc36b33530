"""Distillation in complete runs, in two processes, and with timm teachers."""

import copy

import pytest
import torch

pytest.importorskip('mmpretrain')

from mmengine.runner import Runner
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import mmmobilemamba.engine.hooks  # noqa: F401  (registers what the runs use)

from ..commands import share_imports
from .distillation import batch, build, distilled_cfg, randomize, save_teacher, student_cfg, teacher_cfg

AUGMENTS = dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)])


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp('teacher'))


def items(number):
    """A dataset of single images."""
    data = batch(labels=[index % 5 for index in range(number)])
    return [dict(inputs=x, data_samples=s) for x, s in zip(data['inputs'], data['data_samples'])]


def runner(work_dir, teacher, **kwargs):
    """A Runner for two epochs of two iterations with EMA, and for testing."""
    loader = dict(
        batch_size=4,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
        num_workers=0,
    )
    return Runner(
        model=distilled_cfg(teacher, train_cfg=AUGMENTS),
        work_dir=str(work_dir),
        train_dataloader=dict(dataset=items(8), **loader),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3), clip_grad=dict(max_norm=5.0)),
        test_dataloader=dict(dataset=items(4), **loader),
        test_cfg=dict(),
        test_evaluator=dict(type='Accuracy'),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
        custom_hooks=[dict(type='TrainEMAHook', momentum=0.1, update_buffers=True)],
        default_scope='mmpretrain',
        **kwargs,
    )


@pytest.mark.slow
def test_run_with_an_averaged_model(tmp_path, checkpoint):
    """The checkpoints are those of a plain classifier, can be resumed, and are tested without the teacher."""
    training = runner(tmp_path / 'run', teacher_cfg(checkpoint), experiment_name='kd_train')
    training.train()
    frozen = torch.load(checkpoint)['state_dict']
    teacher = training.model.teacher.classifier
    assert all(torch.equal(value, frozen[key]) for key, value in teacher.state_dict().items())
    losses = training.message_hub.log_scalars
    assert losses['train/loss_kd'].data[0].size == 4 and (losses['train/loss_kd'].data[0] > 0).all()

    saved = torch.load(tmp_path / 'run' / 'epoch_2.pth')
    plain = build(student_cfg())
    plain.load_state_dict(saved['state_dict'])  # strictly
    averaged = {key[len('module.') :] for key in saved['ema_state_dict'] if key.startswith('module.')}
    assert averaged == set(plain.state_dict())
    groups = saved['optimizer']['param_groups']
    assert sum(len(group['params']) for group in groups) == len(list(plain.parameters()))

    resumed = runner(
        tmp_path / 'run',
        teacher_cfg(checkpoint),
        experiment_name='kd_resume',
        resume=True,
        load_from=str(tmp_path / 'run' / 'epoch_1.pth'),
    )
    resumed.train()
    assert resumed.epoch == 2

    testing = runner(
        tmp_path / 'test',
        teacher_cfg(tmp_path / 'missing.pth'),
        experiment_name='kd_test',
        load_from=str(tmp_path / 'run' / 'epoch_2.pth'),
    )
    assert 'accuracy/top1' in testing.test()
    assert testing.model.teacher.classifier is None


def test_run_stops_before_training_without_its_teacher(tmp_path):
    training = runner(tmp_path, teacher_cfg(tmp_path / 'missing.pth'), experiment_name='kd_missing')
    with pytest.raises(FileNotFoundError, match=r'missing\.pth'):
        training.train()
    assert training.iter == 0


def gradients(model, rank):
    """Gradients for two of the four images of the batch."""
    images = slice(2 * rank, 2 * rank + 2)
    data = batch(labels=(1, 3, 0, 2))
    data = {key: value[images] for key, value in data.items()}
    student = getattr(model, 'module', model)
    losses = model(**student.data_preprocessor(data, training=True), mode='loss')
    sum(losses.values()).backward()
    return {name: p.grad.clone() for name, p in student.named_parameters()}


def student_for_ddp(checkpoint):
    """In float64, because batch norm over two values, as in the last stage, amplifies rounding errors."""
    model = build(distilled_cfg(teacher_cfg(checkpoint)))
    model.init_weights()
    model.teacher.classifier.double()
    return randomize(model, seed=2).double().train()


def worker(rank, folder, checkpoint):
    """One of two processes; writes its gradients and the student after a step to a file."""
    torch.set_num_threads(1)
    store = f'file://{folder}/store'
    distributed.init_process_group('gloo', init_method=store, rank=rank, world_size=2)
    torch.manual_seed(rank)  # the students start from equal weights only because of DDP
    model = DistributedDataParallel(student_for_ddp(checkpoint), find_unused_parameters=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = gradients(model, rank)
    optimizer.step()
    stepped = {name: p.detach() for name, p in model.module.named_parameters()}
    torch.save(dict(gradients=found, stepped=stepped), folder / f'rank{rank}.pth')
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes(tmp_path, checkpoint):
    """Both get the mean of their gradients and end with the same student."""
    share_imports()
    torch.multiprocessing.start_processes(worker, (tmp_path, checkpoint), 2, start_method='forkserver')
    found = [torch.load(tmp_path / f'rank{rank}.pth') for rank in (0, 1)]
    for key in ('gradients', 'stepped'):
        assert all(torch.equal(value, found[1][key][name]) for name, value in found[0][key].items())
    torch.manual_seed(0)
    single = student_for_ddp(checkpoint)
    halves = [gradients(copy.deepcopy(single), rank) for rank in (0, 1)]
    for name, value in found[0]['gradients'].items():
        mean = (halves[0][name] + halves[1][name]) / 2
        torch.testing.assert_close(value, mean, rtol=1e-4, atol=1e-6)


def timm_teacher(**kwargs):
    preprocessor = dict(mean=[0, 0, 0], std=[255, 255, 255], to_rgb=True)
    return dict(type='TimmClassifier', num_classes=5, data_preprocessor=preprocessor, **kwargs)


@pytest.mark.parametrize('name', ['test_resnet', 'test_vit'])
def test_teacher_of_timm(tmp_path, name):
    """Its weights are kept, although timm's ViTs have an ``init_weights`` that mmengine would call."""
    timm = pytest.importorskip('timm')
    torch.manual_seed(1)
    net = randomize(timm.create_model(name, num_classes=5), seed=1).eval()
    torch.save(net.state_dict(), tmp_path / 'timm.pth')
    size = net.default_cfg['input_size'][-1]
    teacher = timm_teacher(model_name=name, checkpoint_path=str(tmp_path / 'timm.pth'))
    model = build(distilled_cfg(teacher, teacher_size=size))
    model.init_weights()
    weights = model.teacher.classifier.model.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in net.state_dict().items())

    data = batch()
    images = nn.functional.interpolate(data['inputs'].flip(1) / 255, (size, size), mode='bicubic')
    with torch.no_grad():
        expected = net(images)
    assert expected.std() > 0.01
    inputs = model.data_preprocessor(data, training=True)['inputs']
    torch.testing.assert_close(model.teacher(model.unnormalize(inputs)), expected, rtol=1e-4, atol=1e-5)
    assert model(**data_for(model), mode='loss')['loss_kd'].item() > 0


def data_for(model):
    return model.data_preprocessor(batch(), training=True)


def test_timm_teacher_without_weights():
    pytest.importorskip('timm')
    with pytest.raises(ValueError, match='TimmClassifier names no weights'):
        build(distilled_cfg(timm_teacher(model_name='test_resnet'))).init_weights()


def test_the_teacher_of_the_paper():
    """TResNet-L v2 of timm: images of 224 px with values 0 to 1, 1000 classes, 46.2 M parameters."""
    timm = pytest.importorskip('timm')
    cfg = timm.get_pretrained_cfg('tresnet_v2_l.miil_in21k_ft_in1k')
    assert (cfg.mean, cfg.std, cfg.input_size, cfg.num_classes) == ((0,) * 3, (1,) * 3, (3, 224, 224), 1000)
    with torch.device('meta'):
        net = timm.create_model('tresnet_v2_l')
    assert sum(p.numel() for p in net.parameters()) == 46_174_824
