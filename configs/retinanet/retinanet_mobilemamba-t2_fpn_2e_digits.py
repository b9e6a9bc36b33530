# The COCO recipe on the digits scenes, small enough for two CPU cores.
_base_ = [
    './retinanet_mobilemamba-b1_fpn_1x_coco.py',
    '../_base_/models/digits_backbone.py',
    '../_base_/datasets/digits_coco.py',
    '../_base_/schedules/digits_epochs.py',
]

# In so short a training, the neck and the head need normalisation, too.
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
        # Digits are 20 to 56 pixels high, and narrower than high.
        anchor_generator=dict(
            _delete_=True,
            type='AnchorGenerator',
            scales=[2.2, 3, 4, 5.3],
            ratios=[1.3, 1.9],
            strides=[8, 16, 32, 64, 128],
        ),
        reg_decoded_bbox=True,
        loss_bbox=dict(_delete_=True, type='GIoULoss', loss_weight=2.0),
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
train_cfg = dict(max_epochs=2, val_interval=1)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
custom_hooks = _base_.digits_epochs.average
param_scheduler = _base_.digits_epochs.param_scheduler
default_hooks = _base_.digits_epochs.hooks
log_processor = _base_.digits_epochs.log_processor
auto_scale_lr = dict(base_batch_size=8)
