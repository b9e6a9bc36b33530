# The classifier for all sizes. The head, batch norm and a linear layer, is LeViT's without distillation.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='MobileMamba', arch='b1'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='MobileMambaClsHead',
        num_classes=1000,
        in_channels=448,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1, 5),
    ),
    # One of the two per batch, with equal probability.
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
