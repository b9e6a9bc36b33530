# DINO with MobileMamba-B1, 12 epochs of COCO 2017; a starting point that nobody has trained. Its four levels
# have strides 16 to 128. Attention samples relative positions, so no other setting depends on the strides.
_base_ = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'
custom_imports = dict(imports=['mmmobilemamba.mmdet'], allow_failed_imports=False)

# The authors' ImageNet weights of B1, downloaded on first use. A path works too.
checkpoint = 'mobilemamba://b1'

# For another size, change `arch` and `checkpoint`; the widths follow.
model = dict(
    type='match_widths',
    model_type='DINO',
    backbone=dict(
        _delete_=True,
        type='MobileMamba',
        arch='b1',
        out_indices=(0, 1, 2),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
    ),
    neck=dict(in_channels=['stage0', 'stage1', 'stage2']),
)

default_hooks = dict(training_check=dict(type='TrainingCheckHook'))
runner_type = 'PortableRunner'  # rejects empty epochs and datasets; distributed and AMP training on CPU
