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

train_pipeline = _base_.digits_train_pipeline
test_pipeline = _base_.digits_val_pipeline
train_dataloader = _base_.digits_train_dataloader
train_dataloader['dataset']['indices'] = 2000  # scenes, each seen five times
val_dataloader = _base_.digits_val_dataloader
test_dataloader = val_dataloader
val_evaluator = _base_.digits_evaluator
test_evaluator = val_evaluator

# From scratch: a higher peak, and a shorter warm-up multiplied by a cosine over the whole training.
train_cfg = dict(max_epochs=5, val_interval=1)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = _base_.digits_epochs.param_scheduler
default_hooks = _base_.digits_epochs.hooks
log_processor = _base_.digits_epochs.log_processor
auto_scale_lr = dict(base_batch_size=8)
