# MobileMamba-T4 distilled from TResNet-L v2 on ImageNet-1k: 1000 epochs, 192 pixels; authors: top-1 78.9.
_base_ = [
    '../_base_/models/mobilemamba_distilled.py',
    '../_base_/datasets/imagenet_bs128_mobilemamba_192.py',
    '../_base_/schedules/imagenet_bs1024_adamw_1000e.py',
    '../_base_/imagenet_runtime.py',
]

model = dict(backbone=dict(arch='t4'))
