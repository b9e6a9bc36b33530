# MobileMamba-B4 on ImageNet-1k: 300 epochs, 512 pixels; authors: top-1 82.5.
_base_ = [
    '../_base_/models/mobilemamba.py',
    '../_base_/datasets/imagenet_bs128_mobilemamba_512.py',
    '../_base_/schedules/imagenet_bs1024_adamw_300e.py',
    '../_base_/imagenet_runtime.py',
]

model = dict(backbone=dict(arch='b4'))
