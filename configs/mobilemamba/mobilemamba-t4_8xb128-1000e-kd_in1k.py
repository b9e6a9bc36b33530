# MobileMamba-T4 taught by TResNet-L v2 on ImageNet-1k: 1000 epochs, 192 pixels; authors: top-1 78.9.
_base_ = ['./mobilemamba-t4_8xb128_in1k.py', '../_base_/models/tresnet_teacher.py']
custom_imports = dict(
    imports=[
        'mmmobilemamba',
        'mmmobilemamba.datasets',
        'mmmobilemamba.engine.hooks',
        'mmmobilemamba.models.classifiers',
        'mmmobilemamba.models.heads',
    ]
)

model = dict(type='DistilledClassifier', teacher=_base_.teacher, teacher_size=224, kd_weight=5.0, tau=1.0)

epochs = 1000
train_cfg = dict(max_epochs=epochs)
param_scheduler = dict(T_max=epochs, end=epochs)
