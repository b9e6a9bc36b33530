# Settings shared by all ImageNet-1k recipes, apart from model, data and schedule.
_base_ = 'mmpretrain::_base_/default_runtime.py'
custom_imports = dict(imports=['mmmobilemamba.mmpretrain'], allow_failed_imports=False)

default_hooks = dict(
    checkpoint=dict(interval=15, save_best='accuracy/top1', rule='greater'),
    training_check=dict(type='TrainingCheckHook'),
)
runner_type = 'PortableRunner'  # rejects empty epochs and datasets; distributed and AMP training on CPU
env_cfg = dict(cudnn_benchmark=True)
randomness = dict(seed=42, diff_rank_seed=True)
# Redefined because mmpretrain's browse_dataset.py rejects `_scope_`, which mmengine adds to inherited values.
visualizer = dict(_delete_=True, type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
