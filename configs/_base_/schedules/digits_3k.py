# Half as long again as digits_2k.
_base_ = './digits_2k.py'

digits_train_cfg = dict(max_iters=3000, val_interval=3000)
digits_param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=1200, end=3000, T_max=1800, eta_min=1e-5),
]
