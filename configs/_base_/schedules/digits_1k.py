# 1,000 iterations from the digits classifier: a short warm-up, then a cosine, and an average of the weights.
# The digits configs inherit the rest from a recipe, so this name must differ from the recipe's.
digits_1k = dict(
    train_cfg=dict(max_iters=1000, val_interval=1000),
    param_scheduler=[
        dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=50),
        dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=1000, T_max=950, eta_min=1e-5),
    ],
    hooks=dict(
        logger=dict(interval=20),
        checkpoint=dict(interval=500, max_keep_ckpts=1, save_best='mIoU', rule='greater'),
    ),
    average=[dict(type='EMAHook', momentum=1e-2, update_buffers=True)],
)
