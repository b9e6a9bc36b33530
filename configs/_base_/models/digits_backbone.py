# What the small detectors and segmentors start from, as those of COCO and ADE20K start from ImageNet weights.
# The digits configs inherit the rest from a recipe, so these names must differ from the recipe's.

# The checkpoint of the digits classifier of one epoch. To train it in two minutes on two CPU cores:
#     mim train mmmobilemamba mobilemamba-t2_1xb64-1e-pretrain_digits-64px.py
# Another file: --cfg-options model.backbone.init_cfg.checkpoint=FILE
digits_checkpoint = 'work_dirs/mobilemamba-t2_1xb64-1e-pretrain_digits-64px/epoch_1.pth'
digits_backbone = dict(arch='t2', norm_eval=False, init_cfg=dict(checkpoint=digits_checkpoint))
