# The COCO recipe made small enough for two CPU cores: T2 from scratch on the digits scenes.
_base_ = [
    './retinanet_mobilemamba-b1_fpn_1x_coco.py',
    '../_base_/datasets/digits_coco.py',
    '../_base_/schedules/digits_epochs.py',
]

# From scratch, the neck and the head need normalisation too.
norm_cfg = dict(type='GN', num_groups=8)
model = dict(
    # No pretrained weights, so batch norm has to learn its statistics.
    backbone=dict(arch='t2', norm_eval=False, init_cfg=None),
    neck=dict(out_channels=64, norm_cfg=norm_cfg),
    bbox_head=dict(
        num_classes=10,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        norm_cfg=norm_cfg,
        # The smallest digits are 20 pixels wide.
        anchor_generator=dict(octave_base_scale=3),
    ),
)

size = (160, 160)
train_pipeline = _base_.train_pipeline
train_pipeline[2]['scale'] = size
train_pipeline[3]['prob'] = 0.0  # a digit has a right way round
test_pipeline = _base_.test_pipeline
test_pipeline[1]['scale'] = size
train_dataloader = dict(
    batch_size=8, num_workers=1, dataset=dict(**_base_.digits_train, pipeline=train_pipeline)
)
val_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(**_base_.digits_val, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = _base_.digits_evaluator
test_evaluator = val_evaluator

# From scratch: a higher peak, and a shorter warm-up times a cosine over the whole training.
train_cfg = dict(max_epochs=5, val_interval=1)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = _base_.digits_param_scheduler
default_hooks = _base_.digits_hooks
log_processor = dict(window_size=20)
auto_scale_lr = dict(base_batch_size=8)
