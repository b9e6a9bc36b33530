# What the small detectors and segmentors start from, as those of COCO and ADE20K start from ImageNet weights.
# A twin has the rest from its parent, so these names must not be the parent's.

# What the digits classifier of one epoch leaves. To train it, two minutes on two CPU cores:
#     mim train mmmobilemamba mobilemamba-t2_1xb64-1e-pretrain_digits-64px.py
# Another file: --cfg-options model.backbone.init_cfg.checkpoint=FILE
digits_checkpoint = 'work_dirs/mobilemamba-t2_1xb64-1e-pretrain_digits-64px/epoch_1.pth'
digits_backbone = dict(arch='t2', norm_eval=False, init_cfg=dict(checkpoint=digits_checkpoint))
