# A quarter longer than digits_2k.
_base_ = './digits_2k.py'

digits_train_cfg = dict(max_iters=2500, val_interval=2500)
digits_param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=1000, end=2500, T_max=1500, eta_min=1e-5),
]
