# Heatmaps from MobileMamba-B1's stage 1: mmpose's three deconvolutions expect its stride, 32.
_base_ = 'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py'
custom_imports = dict(imports=['mmmobilemamba'], allow_failed_imports=False)

# For another size, change `arch` and `checkpoint`; the widths follow.
model = dict(
    type='match_widths',
    model_type='TopdownPoseEstimator',
    backbone=dict(
        _delete_=True,
        type='MobileMamba',
        arch='b1',
        out_indices=1,
        init_cfg=dict(type='Pretrained', checkpoint='mobilemamba://b1'),
    ),
    head=dict(in_channels='stage1'),
)

default_hooks = dict(training_check=dict(type='TrainingCheckHook'))
