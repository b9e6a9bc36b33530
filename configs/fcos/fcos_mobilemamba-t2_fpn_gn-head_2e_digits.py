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

size = (160, 160)
train_pipeline = _base_.train_pipeline
train_pipeline[2]['scale'] = size
train_pipeline[3]['prob'] = 0.0  # a digit has a right way round
test_pipeline = _base_.test_pipeline
test_pipeline[1]['scale'] = size
# All 6,000 scenes twice teach more than 2,000 of them six times.
train_dataset = dict(_base_.digits_train, indices=None, pipeline=train_pipeline)
train_dataloader = dict(batch_size=8, num_workers=1, dataset=train_dataset)
val_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(**_base_.digits_val, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = _base_.digits_evaluator
test_evaluator = val_evaluator

# A higher peak, and a shorter warm-up times a cosine over the whole training.
train_cfg = dict(max_epochs=2, val_interval=2)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
custom_hooks = [dict(type='EMAHook', momentum=1e-2, update_buffers=True)]
param_scheduler = _base_.digits_param_scheduler
default_hooks = _base_.digits_hooks
log_processor = dict(window_size=20)
auto_scale_lr = dict(base_batch_size=8)
