# The COCO recipe on the digits scenes, small enough for two CPU cores.
_base_ = [
    './faster-rcnn_mobilemamba-b1_fpn_1x_coco.py',
    '../_base_/models/digits_backbone.py',
    '../_base_/datasets/digits_coco.py',
    '../_base_/schedules/digits_epochs.py',
]

# In so short a training, the neck needs normalisation, too.
model = dict(
    backbone=_base_.digits_backbone,
    neck=dict(out_channels=64, norm_cfg=dict(type='GN', num_groups=8)),
    # Digits are 20 to 56 pixels high, and narrower than high; the finest stride is 4.
    rpn_head=dict(
        in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4, 5.3], ratios=[1.3, 1.9])
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, roi_layer=dict(sampling_ratio=1)),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=10),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)),
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
