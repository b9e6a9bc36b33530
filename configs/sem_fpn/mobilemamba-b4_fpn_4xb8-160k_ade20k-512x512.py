# Semantic FPN with MobileMamba-B4, 160,000 iterations of ADE20K; authors: mIoU 42.5.
_base_ = [
    'mmseg::_base_/models/fpn_r50.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/schedules/ade20k_adamw_80k.py',
]
custom_imports = dict(imports=['mmmobilemamba.mmseg'], allow_failed_imports=False)

# The authors' ImageNet weights of B4, downloaded on first use. A path works too.
checkpoint = 'mobilemamba://b4'

# For another size, change `arch` and `checkpoint`; the widths follow.
model = dict(
    type='match_widths',
    model_type='EncoderDecoder',
    data_preprocessor=dict(size=(512, 512)),
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='MobileMamba',
        arch='b4',
        out_indices=(0, 1, 2),
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
    ),
    neck=dict(in_channels=['stage0', 'stage1', 'stage2'], num_outs=3),
    decode_head=dict(
        in_channels=[256, 256, 256], in_index=[0, 1, 2], feature_strides=[16, 32, 64], num_classes=150
    ),
)

train_dataloader = dict(batch_size=8, num_workers=8)

# Longer schedule and warm-up, ten times the learning rate for the head, no gradient clipping.
train_cfg = dict(max_iters=160000, val_interval=16000)
default_hooks = dict(checkpoint=dict(interval=16000))
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'head': dict(lr_mult=10.0)}),
    clip_grad=None,
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=80000, end=160000, T_max=80000, eta_min=0),
]
visualizer = dict(type='ContiguousSegVisualizer')
