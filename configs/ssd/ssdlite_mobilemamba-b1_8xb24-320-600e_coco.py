# SSDLite with MobileMamba-B1 at 320 pixels, 600 epochs of COCO 2017; authors: box AP 24.0.
_base_ = 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'
custom_imports = dict(imports=['mmmobilemamba.mmdet'], allow_failed_imports=False)

# The authors' ImageNet weights of B1, downloaded on first use. A path works too.
checkpoint = 'mobilemamba://b1'

# For another size, change `arch` and `checkpoint`; the widths follow.
widths = ('stage0', 'stage1', 512, 256, 256, 128)
model = dict(
    type='match_widths',
    model_type='SingleStageDetector',
    backbone=dict(
        _delete_=True,
        type='MobileMamba',
        arch='b1',
        out_indices=(0, 1),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
    ),
    neck=dict(in_channels=widths[:2], out_channels=widths),
    bbox_head=dict(type='SSDLiteHead', in_channels=widths),
)

train_dataloader = dict(num_workers=12)

# Warm-up, constant for half of the training, then a cosine by epoch.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=2.4e-3, betas=(0.9, 0.999), weight_decay=0.05),
    # Matches only the layer norms after the scans; batch norms are named `bn`.
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.0)}),
    clip_grad=dict(max_norm=0.1, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-5, by_epoch=False, begin=0, end=500),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=60, end=120, T_max=60, eta_min=0),
]
default_hooks = dict(training_check=dict(type='TrainingCheckHook'))
runner_type = 'PortableRunner'  # rejects empty epochs and datasets; distributed and AMP training on CPU
