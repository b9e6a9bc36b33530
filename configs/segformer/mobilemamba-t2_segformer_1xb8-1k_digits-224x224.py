# The ADE20K recipe on the digits scenes, small enough for two CPU cores. Strokes are too thin for the
# recipe's finest stride, 16, so the neck adds stride 8.
_base_ = [
    './mobilemamba-b4_segformer_4xb8-80k_ade20k-512x512.py',
    '../_base_/models/digits_backbone.py',
    '../_base_/models/digits_segmentor.py',
    '../_base_/datasets/digits_ade20k.py',
    '../_base_/schedules/digits_1k.py',
]

model = dict(
    data_preprocessor=dict(size=_base_.digits_size),
    backbone=_base_.digits_backbone,
    neck=_base_.digits_neck,
    decode_head=_base_.digits_decode_head,
)

train_dataloader = _base_.digits_all_dataloader
val_dataloader = _base_.digits_val_dataloader
test_dataloader = val_dataloader
test_pipeline = val_dataloader['dataset']['pipeline']  # for mmseg's inference_model

# A higher peak learning rate, the same for the head, and a shorter warm-up.
train_cfg = _base_.digits_1k.train_cfg
optim_wrapper = dict(
    optimizer=dict(lr=2e-3),
    paramwise_cfg=dict(custom_keys={'head': dict(lr_mult=1.0)}),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = _base_.digits_1k.param_scheduler
default_hooks = _base_.digits_1k.hooks
custom_hooks = _base_.digits_1k.average
