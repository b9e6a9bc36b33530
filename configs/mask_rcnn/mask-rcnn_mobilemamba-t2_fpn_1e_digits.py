# The COCO recipe on the digits scenes, small enough for two CPU cores.
_base_ = [
    './mask-rcnn_mobilemamba-b1_fpn_1x_coco.py',
    '../_base_/models/digits_backbone.py',
    '../_base_/datasets/digits_coco.py',
    '../_base_/schedules/digits_epochs.py',
]

# In so short a training, the neck needs normalisation, too.
model = dict(
    backbone=_base_.digits_backbone,
    neck=dict(out_channels=64, norm_cfg=dict(type='GN', num_groups=8)),
    # Digits are 28 to 78 pixels high, and narrower than high; the finest stride is 4.
    rpn_head=dict(
        in_channels=64, feat_channels=64, anchor_generator=dict(scales=[5.5, 7.5], ratios=[1.3, 1.9])
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, roi_layer=dict(sampling_ratio=1)),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=10),
        mask_roi_extractor=dict(out_channels=64, roi_layer=dict(sampling_ratio=1)),
        mask_head=dict(in_channels=64, conv_out_channels=64, num_classes=10, loss_mask=dict(loss_weight=2.0)),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)),
)

size = (224, 224)  # of scenes of 160 pixels: strokes are narrower than the finest stride, 4
train_pipeline = _base_.train_pipeline
train_pipeline[2]['scale'] = size
train_pipeline[3]['prob'] = 0.0  # digits must not be mirrored
test_pipeline = _base_.test_pipeline
test_pipeline[1]['scale'] = size
train_dataset = dict(_base_.digits_train, pipeline=train_pipeline)
train_dataloader = dict(batch_size=8, num_workers=1, dataset=train_dataset)
val_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(**_base_.digits_val, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = _base_.digits_evaluator
test_evaluator = val_evaluator

# A higher peak, and a shorter warm-up multiplied by a cosine over the whole training.
train_cfg = dict(max_epochs=1, val_interval=1)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
custom_hooks = _base_.digits_epochs.average
param_scheduler = _base_.digits_epochs.param_scheduler
default_hooks = _base_.digits_epochs.hooks
default_hooks['checkpoint']['save_best'] = 'coco/segm_mAP'
log_processor = _base_.digits_epochs.log_processor
auto_scale_lr = dict(base_batch_size=8)
