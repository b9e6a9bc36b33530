# The COCO recipe on the digits scenes, small enough for two CPU cores.
_base_ = [
    './fcos_mobilemamba-b1_fpn_gn-head_1x_coco.py',
    '../_base_/models/digits_backbone.py',
    '../_base_/datasets/digits_coco.py',
    '../_base_/schedules/digits_epochs.py',
]

# In so short a training, the neck needs normalisation, too.
norm_cfg = dict(type='GN', num_groups=8)
model = dict(
    backbone=_base_.digits_backbone,
    neck=dict(out_channels=64, norm_cfg=norm_cfg),
    bbox_head=dict(
        num_classes=10,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        norm_cfg=norm_cfg,
        # Digits have 20 to 60 pixels: from half of that on, two levels share them.
        regress_ranges=((-1, 32), (32, 64), (64, 128), (128, 256), (256, 1e8)),
    ),
)

train_pipeline = _base_.digits_train_pipeline
test_pipeline = _base_.digits_val_pipeline
train_dataloader = _base_.digits_train_dataloader
val_dataloader = _base_.digits_val_dataloader
test_dataloader = val_dataloader
val_evaluator = _base_.digits_evaluator
test_evaluator = val_evaluator

# A higher peak, and a shorter warm-up multiplied by a cosine over the whole training.
train_cfg = dict(max_epochs=2, val_interval=2)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
custom_hooks = _base_.digits_epochs.average
param_scheduler = _base_.digits_epochs.param_scheduler
default_hooks = _base_.digits_epochs.hooks
log_processor = _base_.digits_epochs.log_processor
auto_scale_lr = dict(base_batch_size=8)
