# configs/mobilemamba/mobilemamba-t2_8xb128_in1k.py in mmengine's pure Python style.
from mmcv.transforms import CenterCrop, RandomChoice, RandomFlip
from mmengine.dataset import DefaultSampler
from mmengine.hooks import CheckpointHook, DistSamplerSeedHook, IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.optim import AmpOptimWrapper
from mmengine.visualization import LocalVisBackend
from mmpretrain.datasets import ImageNet, PackInputs, RandAugment, RandomErasing, ResizeEdge
from mmpretrain.engine import VisualizationHook
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LabelSmoothLoss
from mmpretrain.models.utils.batch_augments import CutMix, Mixup
from mmpretrain.visualization import UniversalVisualizer
from torch.optim import AdamW

from mmmobilemamba import MobileMamba
from mmmobilemamba.datasets import PillowLoadImageFromFile, RandomResizedCropAndInterpolation
from mmmobilemamba.engine import TrainingCheckHook
from mmmobilemamba.engine.hooks import TrainEMAHook
from mmmobilemamba.engine.schedulers import WarmupCosineLR
from mmmobilemamba.models.heads import MobileMambaClsHead

default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmmobilemamba.mmpretrain'], allow_failed_imports=False)

model = dict(
    type=ImageClassifier,
    backbone=dict(type=MobileMamba, arch='t2'),
    neck=dict(type=GlobalAveragePooling),
    head=dict(
        type=MobileMambaClsHead,
        num_classes=1000,
        in_channels=368,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
        loss=dict(type=LabelSmoothLoss, label_smooth_val=0.1, mode='original'),
        topk=(1, 5),
    ),
    train_cfg=dict(augments=[dict(type=Mixup, alpha=0.8), dict(type=CutMix, alpha=1.0)]),
)

size = 192
data_preprocessor = dict(
    num_classes=1000, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)
load = dict(type=PillowLoadImageFromFile, color_type='color_ignore_orientation')
rand_augment = dict(
    type=RandAugment,
    policies='timm_increasing',
    num_policies=2,
    total_level=10,
    magnitude_level=9,
    magnitude_std=0.5,
)
train_pipeline = [
    load,
    dict(type=RandomResizedCropAndInterpolation, scale=size),
    dict(type=RandomFlip, prob=0.5, direction='horizontal'),
    dict(
        type=RandomChoice,
        transforms=[
            [dict(rand_augment, hparams=dict(pad_val=[104, 116, 124], interpolation='bilinear'))],
            [dict(rand_augment, hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'))],
        ],
    ),
    dict(
        type=RandomErasing,
        erase_prob=0.25,
        mode='rand',
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=[103.53, 116.28, 123.675],
        fill_std=[57.375, 57.12, 58.395],
    ),
    dict(type=PackInputs),
]
test_pipeline = [
    load,
    dict(type=ResizeEdge, scale=int(size / 0.875), edge='short', backend='pillow', interpolation='bicubic'),
    dict(type=CenterCrop, crop_size=size),
    dict(type=PackInputs),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    drop_last=True,
    dataset=dict(type=ImageNet, data_root='data/imagenet', split='train', pipeline=train_pipeline),
    sampler=dict(type=DefaultSampler, shuffle=True),
)
val_dataloader = dict(
    batch_size=125,
    num_workers=8,
    dataset=dict(type=ImageNet, data_root='data/imagenet', split='val', pipeline=test_pipeline),
    sampler=dict(type=DefaultSampler, shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=Accuracy, topk=(1, 5))
test_evaluator = val_evaluator

train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=5, dynamic_intervals=[(201, 1)])
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type=AmpOptimWrapper,
    optimizer=dict(type=AdamW, lr=3e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0, norm_type=2),
)
param_scheduler = dict(
    type=WarmupCosineLR,
    by_epoch=True,
    warmup=20,
    T_max=300,
    end=300,
    start_factor=1e-3,
    eta_min_ratio=1e-2,
    convert_to_iter_based=True,
)
custom_hooks = [
    dict(
        type=TrainEMAHook,
        momentum=2e-4,
        update_buffers=True,
        evaluate_on_ema=True,
        evaluate_on_origin=True,
        priority='ABOVE_NORMAL',
    )
]
auto_scale_lr = dict(base_batch_size=1024, enable=False)

default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=100),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=CheckpointHook, interval=15, save_best='accuracy/top1', rule='greater'),
    sampler_seed=dict(type=DistSamplerSeedHook),
    visualization=dict(type=VisualizationHook, enable=False),
    training_check=dict(type=TrainingCheckHook),
)
runner_type = 'PortableRunner'
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
visualizer = dict(type=UniversalVisualizer, vis_backends=[dict(type=LocalVisBackend)])
randomness = dict(seed=42, diff_rank_seed=True, deterministic=False)
log_level = 'INFO'
load_from = None
resume = False
