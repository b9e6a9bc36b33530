# A few epochs: a short warm-up times a cosine over the whole training, and an average of the weights.
# The digits configs inherit the rest from a recipe, so this name must differ from the recipe's.
digits_epochs = dict(
    param_scheduler=[
        dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=100),
        dict(type='CosineAnnealingLR', by_epoch=True, begin=0, eta_min=1e-5, convert_to_iter_based=True),
    ],
    hooks=dict(
        logger=dict(interval=20),
        checkpoint=dict(max_keep_ckpts=2, save_best='coco/bbox_mAP', rule='greater'),
    ),
    average=[dict(type='EMAHook', momentum=1e-2, update_buffers=True)],
    log_processor=dict(window_size=20),
)
