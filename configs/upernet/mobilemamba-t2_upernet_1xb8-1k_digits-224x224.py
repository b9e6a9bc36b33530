# The ADE20K recipe on the digits scenes, small enough for two CPU cores. Strokes are too thin for the
# recipe's finest stride, 16, so the neck adds stride 8.
_base_ = [
    './mobilemamba-b4_upernet_4xb8-80k_ade20k-512x512.py',
    '../_base_/models/digits_backbone.py',
    '../_base_/models/digits_segmentor.py',
    '../_base_/datasets/digits_ade20k.py',
    '../_base_/schedules/digits_1k.py',
]

model = dict(
    data_preprocessor=dict(size=_base_.digits_size),
    backbone=_base_.digits_backbone,
    neck=_base_.digits_neck,
    decode_head=dict(
        in_channels=[64] * 4,
        in_index=[0, 1, 2, 3],
        channels=64,
        dropout_ratio=0,  # training is too short to overfit
        num_classes=11,
        norm_cfg=_base_.digits_norm,
        loss_decode=_base_.digits_loss,
        init_cfg=_base_.digits_init,
    ),
    auxiliary_head=dict(
        in_channels=64,
        in_index=1,
        channels=64,
        num_classes=11,
        norm_cfg=_base_.digits_norm,
        init_cfg=_base_.digits_init,
    ),
)

# All 6,000 scenes teach more than 2,000 of them four times.
train_dataset = dict(_base_.digits_train, indices=None)
train_dataloader = dict(batch_size=8, num_workers=1, dataset=train_dataset)
val_dataloader = _base_.digits_val_dataloader
test_dataloader = val_dataloader
test_pipeline = val_dataloader['dataset']['pipeline']  # for mmseg's inference_model

# A higher peak learning rate and a shorter warm-up.
train_cfg = _base_.digits_1k.train_cfg
optim_wrapper = dict(optimizer=dict(lr=2e-3), clip_grad=dict(max_norm=1.0))
param_scheduler = _base_.digits_1k.param_scheduler
default_hooks = _base_.digits_1k.hooks
custom_hooks = _base_.digits_1k.average
