# The ADE20K recipe made small enough for two CPU cores: T2 from scratch on the digits scenes.
_base_ = ['./mobilemamba-b4_fpn_4xb8-160k_ade20k-512x512.py', '../_base_/datasets/digits_ade20k.py']
custom_imports = dict(imports=['mmmobilemamba', 'mmmobilemamba.models.necks', 'mmmobilemamba.visualization'])

norm_cfg = dict(type='BN')
model = dict(
    data_preprocessor=dict(size=_base_.digits_size),
    backbone=dict(arch='t2', init_cfg=None),
    neck=_base_.digits_neck,
    decode_head=dict(
        in_channels=[64] * 4,
        in_index=[0, 1, 2, 3],
        feature_strides=[8, 16, 32, 64],
        channels=32,
        num_classes=11,
        norm_cfg=norm_cfg,
        loss_decode=_base_.digits_loss,
    ),
)

train_dataloader = dict(batch_size=16, num_workers=1, dataset=_base_.digits_train)
val_dataloader = dict(batch_size=8, num_workers=1, dataset=_base_.digits_val)
test_dataloader = val_dataloader

# From scratch: a higher peak, for the head too, and a short warm-up times a cosine over the whole training.
max_iters = 2000
train_cfg = dict(max_iters=max_iters, val_interval=500)
optim_wrapper = dict(
    optimizer=dict(lr=2e-3),
    paramwise_cfg=dict(custom_keys={'head': dict(lr_mult=1.0)}),
    # The first gradients are large; AdamW would remember them for the better part of so short a training.
    clip_grad=dict(_delete_=True, max_norm=0.1),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=max_iters, T_max=max_iters, eta_min=1e-5),
]
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=500, max_keep_ckpts=1, save_best='mIoU', rule='greater'),
)
env_cfg = dict(dist_cfg=dict(backend='gloo'))
