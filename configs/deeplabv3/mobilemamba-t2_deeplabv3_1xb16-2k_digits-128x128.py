# The ADE20K recipe made small enough for two CPU cores: T2 from scratch on the digits scenes.
_base_ = ['./mobilemamba-b4_deeplabv3_4xb8-80k_ade20k-512x512.py', '../_base_/datasets/digits_ade20k.py']
custom_imports = dict(imports=['mmmobilemamba', 'mmmobilemamba.models.necks', 'mmmobilemamba.visualization'])

norm_cfg = dict(type='BN')
model = dict(
    data_preprocessor=dict(size=_base_.digits_size),
    backbone=dict(arch='t2', init_cfg=None),
    neck=_base_.digits_neck,
    decode_head=dict(
        in_channels=[64] * 4,
        in_index=[0, 1, 2, 3],
        input_transform='resize_concat',
        channels=32,
        dilations=(1, 2, 4, 6),  # of 16 x 16 pixels
        num_classes=11,
        norm_cfg=norm_cfg,
        loss_decode=_base_.digits_loss,
    ),
    auxiliary_head=dict(in_channels=64, channels=64, num_classes=11, norm_cfg=norm_cfg),
)

train_dataloader = dict(batch_size=16, num_workers=1, dataset=_base_.digits_train)
val_dataloader = dict(batch_size=8, num_workers=1, dataset=_base_.digits_val)
test_dataloader = val_dataloader

# From scratch: a higher peak, and a short warm-up times a cosine over the whole training.
max_iters = 2000
train_cfg = dict(max_iters=max_iters, val_interval=500)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=max_iters, T_max=max_iters, eta_min=1e-5),
]
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=500, max_keep_ckpts=1, save_best='mIoU', rule='greater'),
)
env_cfg = dict(dist_cfg=dict(backend='gloo'))
