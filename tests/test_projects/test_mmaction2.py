"""mmaction2: TSN, with the backbone under its own name and under mmpretrain's."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from .projects import BATCH, IMAGES, evaluate, recipe, replace, shorten, train

pytestmark = pytest.mark.projects
SIDE = 64


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    """Four videos of eight frames in two classes, and their list."""
    folder = tmp_path_factory.mktemp('videos')
    generator = np.random.default_rng(0)
    for index in range(IMAGES):
        writer = cv2.VideoWriter(str(folder / f'{index}.mp4'), cv2.VideoWriter.fourcc(*'mp4v'), 8, (96, 80))
        for _ in range(8):
            writer.write(generator.integers(0, 256, (80, 96, 3), dtype=np.uint8))
        writer.release()
    (folder / 'list.txt').write_text(''.join(f'{index}.mp4 {index % 2}\n' for index in range(IMAGES)))
    return folder


def test_recipe(videos, tmp_path):
    """mmaction2's tools train it and predict with it."""
    from mmaction.apis import inference_recognizer, init_recognizer

    config = recipe('mmaction2/tsn_*.py')
    shorten(config)
    for loader in (config.train_dataloader, config.test_dataloader):
        loader.dataset.update(ann_file=str(videos / 'list.txt'), data_prefix=dict(video=str(videos)))
        crops = dict(MultiScaleCrop=dict(input_size=SIDE), TenCrop=dict(crop_size=SIDE))
        replace(loader.dataset.pipeline, **crops)
        for step in loader.dataset.pipeline:
            if step['type'] == 'Resize':
                step['scale'] = (-1, 72) if step['scale'][0] == -1 else (SIDE, SIDE)
    replace(config.test_pipeline, SampleFrames=dict(num_clips=2), TenCrop=dict(crop_size=SIDE))
    path, checkpoint = train(config, tmp_path)
    assert 0 <= evaluate(path, checkpoint, tmp_path)['acc/top1'] <= 1

    model = init_recognizer(str(path), str(checkpoint), device='cpu')
    found = inference_recognizer(model, str(videos / '0.mp4'))
    assert found.pred_score.shape == (400,)
    assert found.pred_score.sum().item() == pytest.approx(1, abs=1e-4)


def losses_of(config):
    """The loss of a batch of random frames after a backward pass, and the model."""
    from mmaction.structures import ActionDataSample

    torch.manual_seed(0)
    model = MODELS.build(config.model)
    samples = [ActionDataSample().set_gt_label(index) for index in range(BATCH)]
    frames = torch.rand(BATCH, 3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    losses = model.loss(frames, samples)
    losses['loss_cls'].backward()
    return losses['loss_cls'].item(), model


def test_both_names():
    """Both names build the same network; the class itself would return a tuple, which mmaction2 rejects."""
    from mmmobilemamba import MobileMamba
    from mmmobilemamba.mmaction import FrameMobileMamba

    config = recipe('mmaction2/tsn_*.py')
    config.model.cls_head.dropout_ratio = 0
    config.model.backbone.drop_path_rate = 0.0
    own, model = losses_of(config)
    assert type(model.backbone) is FrameMobileMamba
    assert all(parameter.grad is not None for parameter in model.parameters())
    config.model.backbone.type = 'mmpretrain.MobileMamba'
    theirs, model = losses_of(config)
    assert type(model.backbone) is MobileMamba
    assert own == pytest.approx(theirs, rel=1e-6)

    config.model.backbone.type = MobileMamba
    with pytest.raises(AssertionError, match='x is tuple'):
        losses_of(config)


def test_one_map_or_several():
    from mmmobilemamba.mmaction import FrameMobileMamba

    init_default_scope('mmaction')
    image = torch.rand(1, 3, 64, 64)
    one = FrameMobileMamba('t2').eval()
    assert one(image).shape == (1, 368, 1, 1)
    several = FrameMobileMamba('t2', out_indices=(1, 2)).eval()
    assert [tuple(x.shape) for x in several(image)] == [(1, 272, 2, 2), (1, 368, 1, 1)]


def test_constructor_of_tsm():
    """It rejects layer norms; mmengine's default constructor works."""
    from mmengine.optim import build_optim_wrapper

    model = MODELS.build(recipe('mmaction2/tsn_*.py').model)
    optimizer = dict(type='AdamW', lr=1e-3, weight_decay=0.05)
    rules = dict(constructor='TSMOptimWrapperConstructor', paramwise_cfg=dict(fc_lr5=True))
    with pytest.raises(ValueError, match=r'New atomic module type: .*LayerNorm'):
        build_optim_wrapper(model, dict(optimizer=optimizer, **rules))
    rules = dict(paramwise_cfg=dict(custom_keys={'cls_head.fc_cls': dict(lr_mult=5.0)}))
    groups = build_optim_wrapper(model, dict(optimizer=optimizer, **rules)).optimizer.param_groups
    assert {group['lr'] for group in groups} == {1e-3, 5e-3}
    assert len([p for group in groups for p in group['params']]) == len(list(model.parameters()))
