# The COCO recipe on the digits scenes, small enough for two CPU cores. It has none of
# the recipe's mosaics, other mixtures and random sizes, which help only in long trainings.
_base_ = [
    './rtmdet_mobilemamba-b1_8xb32-300e_coco.py',
    '../_base_/models/digits_backbone.py',
    '../_base_/datasets/digits_coco.py',
    '../_base_/schedules/digits_epochs.py',
]

model = dict(backbone=_base_.digits_backbone, bbox_head=dict(num_classes=10))

size = (160, 160)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=size, keep_ratio=True),
    dict(type='Pad', size=size, pad_val=dict(img=(114, 114, 114))),
    dict(type='PackDetInputs'),  # no flip: digits must not be mirrored
]
test_pipeline = _base_.test_pipeline
test_pipeline[1]['scale'] = size
test_pipeline[2]['size'] = size
train_dataset = dict(_base_.digits_train, pipeline=train_pipeline)
train_dataloader = dict(batch_size=8, num_workers=1, dataset=train_dataset)
val_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(**_base_.digits_val, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = _base_.digits_evaluator
test_evaluator = val_evaluator

# A short warm-up multiplied by a cosine over the whole training.
train_cfg = dict(max_epochs=2, val_interval=2, dynamic_intervals=None)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = _base_.digits_epochs.param_scheduler
default_hooks = _base_.digits_epochs.hooks
custom_hooks = _base_.digits_epochs.average
log_processor = _base_.digits_epochs.log_processor
auto_scale_lr = dict(base_batch_size=8)
