# The COCO recipe on the digits scenes, small enough for two CPU cores. It has the recipe's crops, but not its
# expansion and colours, which help only in long trainings.
_base_ = [
    './ssdlite_mobilemamba-b1_8xb24-320-600e_coco.py',
    '../_base_/models/digits_backbone.py',
    '../_base_/datasets/digits_coco.py',
    '../_base_/schedules/digits_epochs.py',
]

model = dict(
    backbone=_base_.digits_backbone,
    bbox_head=dict(
        num_classes=10,
        anchor_generator=dict(
            strides=[16, 32, 64, 128, 256, 512],
            min_sizes=[28, 52, 80, 112, 144, 176],
            max_sizes=[52, 80, 112, 144, 176, 208],
        ),
    ),
)

size = (224, 224)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='MinIoURandomCrop', min_ious=(0.5, 0.7, 0.9), min_crop_size=0.5),
    dict(type='Resize', scale=size, keep_ratio=False),
    dict(type='PackDetInputs'),  # no flip: digits must not be mirrored
]
test_pipeline = _base_.test_pipeline
test_pipeline[1]['scale'] = size
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    dataset=dict(times=1, dataset=dict(_base_.digits_train, pipeline=train_pipeline)),
)
val_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(**_base_.digits_val, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = _base_.digits_evaluator
test_evaluator = val_evaluator

# A short warm-up multiplied by a cosine over the whole training.
train_cfg = dict(max_epochs=2, val_interval=2)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
custom_hooks = _base_.digits_epochs.average
param_scheduler = _base_.digits_epochs.param_scheduler
default_hooks = _base_.digits_epochs.hooks
log_processor = _base_.digits_epochs.log_processor
auto_scale_lr = dict(base_batch_size=16)
