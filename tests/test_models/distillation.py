"""A small student, a small teacher and a few images for the tests of distillation and their workers."""

import torch
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample

import mmmobilemamba.models.classifiers  # noqa: F401  registers DistilledClassifier

CLASSES = 5
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
TEACHER_MEAN, TEACHER_STD = [10.0, 20.0, 30.0], [255.0, 200.0, 100.0]


def classifier_cfg(widths, mean, std, num_classes=CLASSES):
    """The config of a MobileMamba classifier with one block per stage."""
    arch = dict(
        embed_dims=widths,
        depths=(1, 1, 1),
        global_ratios=(0.5, 0.5, 0.5),
        local_ratios=(0.3, 0.3, 0.3),
        kernel_sizes=(3, 3, 3),
        drop_path_rate=0.0,
    )
    return dict(
        type='ImageClassifier',
        backbone=dict(type='MobileMamba', arch=arch),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LeViTClsHead',
            num_classes=num_classes,
            in_channels=widths[-1],
            distillation=False,
            loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        ),
        data_preprocessor=dict(mean=mean, std=std, to_rgb=True, num_classes=num_classes),
    )


def student_cfg(**kwargs):
    """The config of a plain classifier."""
    return {**classifier_cfg((32, 48, 64), MEAN, STD), **kwargs}


def teacher_cfg(checkpoint=None, **kwargs):
    """The config of a narrower network with a different normalisation."""
    cfg = classifier_cfg((32, 40, 48), TEACHER_MEAN, TEACHER_STD, **kwargs)
    if checkpoint is not None:
        cfg['init_cfg'] = dict(type='Pretrained', checkpoint=str(checkpoint))
    return cfg


def distilled_cfg(teacher, teacher_size=80, **kwargs):
    """The config of the student with a teacher."""
    return student_cfg(type='DistilledClassifier', teacher=teacher, teacher_size=teacher_size, **kwargs)


def build(cfg):
    """Build a classifier like mmpretrain's Runner."""
    init_default_scope('mmpretrain')
    return MODELS.build(cfg)


def randomize(model, seed):
    """Fill every tensor so that no branch is zero and no statistics are trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator)
                value.add_(0.1 * (noise.abs() if 'running_var' in key else noise))
    return model


def save_teacher(folder):
    """Write the checkpoint of a teacher with random weights in every branch."""
    path = folder / 'teacher.pth'
    torch.save(dict(state_dict=randomize(build(teacher_cfg()), seed=1).state_dict()), path)
    return path


def batch(labels=(1, 3), size=64, seed=0):
    """Images with values 0 to 255 and labels, as from a dataloader."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(256, (len(labels), 3, size, size), generator=generator, dtype=torch.uint8)
    return dict(inputs=inputs, data_samples=[DataSample().set_gt_label(label) for label in labels])
