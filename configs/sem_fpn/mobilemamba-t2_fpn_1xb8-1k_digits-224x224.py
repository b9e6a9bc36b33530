# From the digits classifier instead of random weights, and with all 6,000 scenes.
_base_ = [
    './mobilemamba-t2_fpn_1xb4-2k_digits-224x224.py',
    '../_base_/models/digits_backbone.py',
    '../_base_/schedules/digits_1k.py',
]

start = dict(_delete_=True, type='Pretrained', checkpoint=_base_.digits_checkpoint)
model = dict(backbone=dict(init_cfg=start))
train_dataloader = dict(batch_size=8, dataset=dict(indices=None))
train_cfg = _base_.digits_1k.train_cfg
param_scheduler = _base_.digits_1k.param_scheduler
default_hooks = _base_.digits_1k.hooks
custom_hooks = _base_.digits_1k.average
