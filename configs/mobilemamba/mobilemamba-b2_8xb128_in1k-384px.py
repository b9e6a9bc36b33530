# MobileMamba-B2 on ImageNet-1k: 300 epochs, 384 pixels; authors: top-1 81.6.
_base_ = [
    '../_base_/models/mobilemamba.py',
    '../_base_/datasets/imagenet_bs128_mobilemamba_384.py',
    '../_base_/schedules/imagenet_bs1024_adamw_300e.py',
    '../_base_/imagenet_runtime.py',
]

model = dict(backbone=dict(arch='b2'))
