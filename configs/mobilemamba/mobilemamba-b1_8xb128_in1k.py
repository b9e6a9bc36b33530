# MobileMamba-B1 on ImageNet-1k: 300 epochs, 256 pixels; authors: top-1 79.9.
_base_ = [
    '../_base_/models/mobilemamba.py',
    '../_base_/datasets/imagenet_bs128_mobilemamba_256.py',
    '../_base_/schedules/imagenet_bs1024_adamw_300e.py',
    '../_base_/imagenet_runtime.py',
]
