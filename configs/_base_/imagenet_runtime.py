# What all trainings on ImageNet-1k have in common beside model, data and schedule.
_base_ = 'mmpretrain::_base_/default_runtime.py'
custom_imports = dict(imports=['mmmobilemamba.mmpretrain'], allow_failed_imports=False)

default_hooks = dict(
    checkpoint=dict(interval=15, save_best='accuracy/top1', rule='greater'),
    training_check=dict(type='TrainingCheckHook'),
)
runner_type = 'PortableRunner'  # says of small data what to change; several processes without a GPU, too
env_cfg = dict(cudnn_benchmark=True)
randomness = dict(seed=42, diff_rank_seed=True)
# Stated again: mmpretrain's browse_dataset.py takes no `_scope_`, which mmengine adds to what is inherited.
visualizer = dict(_delete_=True, type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
