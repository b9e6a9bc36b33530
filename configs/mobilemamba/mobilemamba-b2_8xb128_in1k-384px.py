# MobileMamba-B2 on ImageNet-1k: 300 epochs, 384 pixels; authors: top-1 81.6.
_base_ = './mobilemamba-b1_8xb128_in1k.py'

model = dict(backbone=dict(arch='b2'))

size = 384
train_pipeline = _base_.train_pipeline
train_pipeline[1]['scale'] = size
test_pipeline = _base_.test_pipeline
test_pipeline[1]['scale'] = int(size / 0.875)
test_pipeline[2]['crop_size'] = size
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
