# MobileMamba-B1 on ImageNet-1k: 300 epochs, 256 pixels; authors: top-1 79.9.
_base_ = [
    '../_base_/models/mobilemamba.py',
    '../_base_/datasets/imagenet_bs128_mobilemamba_256.py',
    '../_base_/schedules/imagenet_bs1024_adamw_300e.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(
    imports=[
        'mmmobilemamba',
        'mmmobilemamba.datasets',
        'mmmobilemamba.engine.hooks',
        'mmmobilemamba.models.heads',
    ],
    allow_failed_imports=False,
)

default_hooks = dict(checkpoint=dict(interval=15, save_best='accuracy/top1', rule='greater'))
env_cfg = dict(cudnn_benchmark=True)
randomness = dict(seed=42, diff_rank_seed=True)
# Stated again: mmpretrain's browse_dataset.py takes no `_scope_`, which mmengine adds to what is inherited.
visualizer = dict(_delete_=True, type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
