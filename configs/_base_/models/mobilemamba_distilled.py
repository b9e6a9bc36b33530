# The classifier for all sizes, distilled from TResNet-L v2.
_base_ = ['./mobilemamba.py', './tresnet_teacher.py']

model = dict(type='DistilledClassifier', teacher=_base_.teacher, teacher_size=224, kd_weight=5.0, tau=1.0)
