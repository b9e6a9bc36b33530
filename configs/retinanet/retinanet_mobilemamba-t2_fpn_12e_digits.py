# The COCO recipe made small enough for two CPU cores: T2 from scratch on the digits scenes.
_base_ = ['./retinanet_mobilemamba-b1_fpn_1x_coco.py', '../_base_/datasets/digits_detection.py']

model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    # No pretrained weights, so batch norm has to learn its statistics.
    backbone=dict(arch='t2', norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[144, 272, 368], out_channels=64),
    bbox_head=dict(
        num_classes=10,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        # The smallest digits are 20 pixels wide.
        anchor_generator=dict(octave_base_scale=3),
    ),
)

# From scratch: a higher peak, a shorter warm-up, and cosine from its end, by iteration.
max_epochs = 12
train_cfg = dict(max_epochs=max_epochs, val_interval=3)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=60),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        eta_min=1e-5,
        convert_to_iter_based=True,
    ),
]

default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(max_keep_ckpts=2, save_best='coco/bbox_mAP', rule='greater'),
)
log_processor = dict(window_size=20)
env_cfg = dict(dist_cfg=dict(backend='gloo'))
