# SegFormer's head with MobileMamba-B4, 80,000 iterations of ADE20K; a starting point that nobody has trained.
_base_ = [
    'mmseg::_base_/models/segformer_mit-b0.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/schedules/ade20k_adamw_80k.py',
]
custom_imports = dict(imports=['mmmobilemamba.mmseg'], allow_failed_imports=False)

# The authors' ImageNet weights of B4, downloaded on first use. A path works too.
checkpoint = 'mobilemamba://b4'

# For another size, change `arch` and `checkpoint`; the widths follow.
model = dict(
    type='match_widths',
    model_type='EncoderDecoder',
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        _delete_=True,
        type='MobileMamba',
        arch='b4',
        out_indices=(0, 1, 2),
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
    ),
    decode_head=dict(in_channels=['stage0', 'stage1', 'stage2'], in_index=[0, 1, 2], num_classes=150),
)

train_dataloader = dict(batch_size=8, num_workers=8)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'head': dict(lr_mult=10.0)})
)  # as in SegFormer's recipes
visualizer = dict(type='ContiguousSegVisualizer')
