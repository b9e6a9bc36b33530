# MobileMamba-S6 on ImageNet-1k: 300 epochs, 224 pixels; authors: top-1 78.0.
_base_ = [
    '../_base_/models/mobilemamba.py',
    '../_base_/datasets/imagenet_bs128_mobilemamba_224.py',
    '../_base_/schedules/imagenet_bs1024_adamw_300e.py',
    '../_base_/imagenet_runtime.py',
]

model = dict(backbone=dict(arch='s6'))
