# The ImageNet recipe on crops of the digits scenes, small enough for two CPU cores. It keeps crops and
# RandAugment, but not random erasing, Mixup and CutMix, which help only in long trainings.
_base_ = ['./mobilemamba-t2_8xb128_in1k.py', '../_base_/datasets/digits_imagenet.py']

data_preprocessor = dict(num_classes=10)
model = dict(head=dict(num_classes=10), train_cfg=None)  # Mixup and CutMix need more epochs

train_dataloader = dict(batch_size=64, num_workers=1, dataset=_base_.digits_train)
val_dataloader = dict(batch_size=64, num_workers=1, dataset=_base_.digits_val)
test_dataloader = val_dataloader
test_pipeline = val_dataloader['dataset']['pipeline']
val_evaluator = dict(topk=1)
test_evaluator = val_evaluator

epochs = 4
train_cfg = dict(max_epochs=epochs, val_interval=1, dynamic_intervals=None)
optim_wrapper = dict(
    type='OptimWrapper',  # float32; AmpOptimWrapper needs a GPU
    optimizer=dict(lr=3e-3),
    # The first gradients are large and would dominate AdamW's moments for most of this short training.
    clip_grad=dict(max_norm=0.1),
)
param_scheduler = dict(warmup=0.5, T_max=epochs, end=epochs)
# Averages over about 50 iterations instead of 5,000; the training has only hundreds.
custom_hooks = [dict(type='TrainEMAHook', momentum=2e-2, update_buffers=True, priority='ABOVE_NORMAL')]
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=1, max_keep_ckpts=1),
)
randomness = dict(seed=0)  # results of so short a training depend on the seed
auto_scale_lr = dict(base_batch_size=64)
