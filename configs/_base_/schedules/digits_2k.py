# 2,000 iterations from scratch: a short warm-up, later a cosine, as in the recipe.
# The digits configs inherit the rest from a recipe, so these names must differ from the recipe's.
digits_train_cfg = dict(max_iters=2000, val_interval=2000)
digits_param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=800, end=2000, T_max=1200, eta_min=1e-5),
]
digits_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=1000, max_keep_ckpts=1, save_best='mIoU', rule='greater'),
)
