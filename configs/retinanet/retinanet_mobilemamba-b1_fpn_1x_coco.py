# RetinaNet with MobileMamba-B1, 12 epochs of COCO 2017; authors: box AP 39.6.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/default_runtime.py',
    '../_base_/schedules/coco_adamw_12e.py',
]
custom_imports = dict(imports=['mmmobilemamba.mmdet'], allow_failed_imports=False)

# The authors' ImageNet weights of B1, downloaded on first use. A path works too.
checkpoint = 'mobilemamba://b1'

# For another size, change `arch` and `checkpoint`; the widths follow.
model = dict(
    type='match_widths',
    model_type='RetinaNet',
    backbone=dict(
        _delete_=True,
        type='MobileMamba',
        arch='b1',
        out_indices=(0, 1, 2),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
    ),
    neck=dict(
        type='DeconvFPN',
        in_channels=['stage0', 'stage1', 'stage2'],
        start_level=0,
        num_extra_trans_convs=1,
    ),
)

train_dataloader = dict(batch_size=4, num_workers=4)
default_hooks = dict(training_check=dict(type='TrainingCheckHook'))
runner_type = 'PortableRunner'  # rejects empty epochs and datasets; distributed and AMP training on CPU
