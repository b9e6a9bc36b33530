# The authors' ImageNet schedule: AdamW, and a cosine that counts from the first iteration, including warm-up.
# Source: configs and logs of https://github.com/lewandofskee/MobileMamba, 8 GPUs x 128 images.
epochs = 300
train_cfg = dict(
    by_epoch=True,
    max_epochs=epochs,
    val_interval=5,
    # Validate every epoch from the 200th: mmengine compares milestones with the number of the next epoch.
    dynamic_intervals=[(201, 1)],
)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    type='AmpOptimWrapper',
    # 1.5e-3 for every 512 images.
    optimizer=dict(type='AdamW', lr=3e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    # No weight decay on parameters with one dimension: biases, norm weights and the skip D of the scan.
    # A_log, the bias of dt and the scales of the mixer have more dimensions, so they are decayed.
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0, norm_type=2),
)

param_scheduler = dict(
    type='WarmupCosineLR',
    by_epoch=True,
    warmup=20,
    T_max=epochs,
    end=epochs,
    start_factor=1e-3,
    eta_min_ratio=1e-2,
    convert_to_iter_based=True,
)

# Validates both the EMA and the trained weights; the authors publish the EMA.
custom_hooks = [
    dict(
        type='TrainEMAHook',
        momentum=2e-4,
        update_buffers=True,
        evaluate_on_ema=True,
        evaluate_on_origin=True,
        priority='ABOVE_NORMAL',
    )
]
auto_scale_lr = dict(base_batch_size=1024, enable=False)
