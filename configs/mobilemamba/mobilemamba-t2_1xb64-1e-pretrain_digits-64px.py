# One epoch, in two minutes on two CPU cores: where the small detectors and segmentors start from, as those of
# COCO and ADE20K start from ImageNet weights.
_base_ = './mobilemamba-t2_1xb64-4e_digits-64px.py'

epochs = 1
train_cfg = dict(max_epochs=epochs)
param_scheduler = dict(warmup=0.2, T_max=epochs, end=epochs)
