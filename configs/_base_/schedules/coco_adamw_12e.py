# The authors' detection schedule: AdamW, constant after warm-up, cosine by epoch in the second half.
# Source: configs and logs of https://github.com/lewandofskee/MobileMamba, 4 GPUs x 4 images.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=0.05),
    # Matches only the layer norm after each scan. Batch norms are named `bn` and are decayed like all other
    # parameters.
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.0)}),
    clip_grad=dict(max_norm=0.1, norm_type=2),
)

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-5, by_epoch=False, begin=0, end=500),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=6, end=12, T_max=6, eta_min=0),
]

auto_scale_lr = dict(enable=False, base_batch_size=16)
