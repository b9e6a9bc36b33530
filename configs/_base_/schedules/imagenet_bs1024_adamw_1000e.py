_base_ = './imagenet_bs1024_adamw_300e.py'

epochs = 1000
train_cfg = dict(max_epochs=epochs)
param_scheduler = dict(T_max=epochs, end=epochs)
