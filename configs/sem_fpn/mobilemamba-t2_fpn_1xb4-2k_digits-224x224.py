# The ADE20K recipe on the digits scenes, small enough for two CPU cores: T2 from scratch. Strokes are too
# thin for the recipe's finest stride, 16, so the neck adds stride 8.
_base_ = [
    './mobilemamba-b4_fpn_4xb8-160k_ade20k-512x512.py',
    '../_base_/models/digits_segmentor.py',
    '../_base_/datasets/digits_ade20k.py',
    '../_base_/schedules/digits_2k.py',
]

model = dict(
    data_preprocessor=dict(size=_base_.digits_size),
    backbone=dict(arch='t2', init_cfg=None),
    neck=_base_.digits_neck,
    decode_head=dict(
        _base_.digits_decode_head,
        feature_strides=[8, 16, 32, 64],
    ),
)

train_dataloader = _base_.digits_train_dataloader
val_dataloader = _base_.digits_val_dataloader
test_dataloader = val_dataloader
test_pipeline = val_dataloader['dataset']['pipeline']  # for mmseg's inference_model

# From scratch: a higher peak learning rate, the same for the head, and a shorter warm-up.
train_cfg = _base_.digits_train_cfg
optim_wrapper = dict(
    optimizer=dict(lr=2e-3),
    paramwise_cfg=dict(custom_keys={'head': dict(lr_mult=1.0)}),
    # The first gradients are large and would dominate AdamW's moments for most of this short training.
    clip_grad=dict(_delete_=True, max_norm=1.0),
)
param_scheduler = _base_.digits_param_scheduler
default_hooks = _base_.digits_hooks
