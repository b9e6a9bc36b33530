"""Knowledge distillation: mmpretrain's classifier, trained with a frozen teacher."""

from __future__ import annotations

import torch.nn.functional as F
from mmengine.registry import MODELS
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.models.heads import ClsHead
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from .teacher import FrozenTeacher


@MODELS.register_module()
class DistilledClassifier(ImageClassifier):
    """mmpretrain's ImageClassifier with a distillation loss from a frozen teacher.

    The training loss is the cross entropy of the head (``loss``) plus ``kd_weight`` * tau^2 *
    KL(teacher || student) (``loss_kd``), computed from the same logits. The teacher receives the same batch,
    mixed and erased, as the student. The student's normalisation is undone and the teacher's applied; images
    of another size than ``teacher_size`` are resized (bicubic, without antialiasing). Source:
    https://arxiv.org/abs/2411.15941, the runs of 1000 epochs; https://arxiv.org/abs/1503.02531.

    Prediction, parameters and checkpoints are those of an ``ImageClassifier``. ``init_weights``, which the
    Runner calls before training, builds the teacher and reads its weights; otherwise the first loss does.
    Testing needs no teacher. The teacher runs on the device of the images and under their autocast.

    Args:
        *args: As in :class:`mmpretrain.models.ImageClassifier`.
        teacher (dict | BaseClassifier): Any classifier of mmpretrain, including ``TimmClassifier``. Its
            ``data_preprocessor`` must have ``mean`` and ``std``, in units of 0 to 255, and the ``to_rgb`` of
            the student. A config must name the weights of the whole classifier by ``init_cfg`` or
            ``pretrained``, or timm's ``checkpoint_path``. An instance is used as it is.
        teacher_size (int): Height and width of the teacher's images in pixels. Defaults to 224.
        kd_weight (float): Weight of the distillation loss. Defaults to 5.
        tau (float): Temperature by which both logits are divided. Defaults to 1.
        **kwargs: As in :class:`mmpretrain.models.ImageClassifier`.

    Raises:
        TypeError, ValueError: If an argument is not one of the above.

    Example:
        >>> teacher = dict(
        ...     type='TimmClassifier', model_name='tresnet_v2_l', pretrained=True,
        ...     data_preprocessor=dict(mean=[0, 0, 0], std=[255, 255, 255], to_rgb=True))
        >>> student = dict(type='DistilledClassifier', teacher=teacher, backbone=..., neck=..., head=...)
    """

    def __init__(self, *args, teacher, teacher_size=224, kd_weight=5.0, tau=1.0, **kwargs):
        super().__init__(*args, **kwargs)
        if kd_weight < 0:
            raise ValueError(f'kd_weight must be 0 or more, not {kd_weight}.')
        if tau <= 0:
            raise ValueError(f'tau must be more than 0, not {tau}.')
        self.teacher = FrozenTeacher(teacher, teacher_size)
        self.kd_weight = kd_weight
        self.tau = tau

    def init_weights(self) -> None:
        """Initialise the student, and build the teacher.

        Raises:
            CheckpointError, FileNotFoundError: If the teacher's checkpoint cannot be read or does not match.
            TypeError, ValueError: If the head or the teacher does not support distillation.
        """
        super().init_weights()
        self.prepare_distillation()

    def prepare_distillation(self) -> None:
        """Check the head, and build the teacher unless it is already built.

        Raises:
            CheckpointError, FileNotFoundError, TypeError, ValueError: As in :meth:`init_weights`.
        """
        check_head(self.head)
        self.teacher.build(getattr(self.data_preprocessor, 'to_rgb', False))

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Compute the losses of the head and ``loss_kd``.

        Args:
            inputs (Tensor): Normalised images (N, 3, H, W).
            data_samples (list[DataSample]): Their labels or soft targets.

        Returns:
            dict[str, Tensor]: Scalar losses.

        Raises:
            ValueError: If teacher and student have different numbers of classes.
        """
        self.prepare_distillation()
        logits = self.head(self.extract_feat(inputs))
        targets = self.teacher(self.unnormalize(inputs))
        loss_kd = self.kd_weight * distillation_loss(logits, targets, self.tau)
        return {**self.head._get_loss(logits, data_samples), 'loss_kd': loss_kd}

    def unnormalize(self, inputs: Tensor) -> Tensor:
        """Undo the student's normalisation: images (N, 3, H, W) -> the same in units of 0 to 255."""
        preprocessor = self.data_preprocessor
        if getattr(preprocessor, 'mean', None) is None:
            return inputs
        return inputs * preprocessor.std + preprocessor.mean


def distillation_loss(logits: Tensor, targets: Tensor, tau: float) -> Tensor:
    """tau^2 * KL(softmax(targets / tau) || softmax(logits / tau)), averaged over the images, in float32.

    Args:
        logits (Tensor): Logits of the student, (N, classes).
        targets (Tensor): Logits of the teacher, (N, classes).
        tau (float): Temperature.

    Returns:
        Tensor: A scalar, in nats.

    Raises:
        ValueError: If the shapes differ.
    """
    if logits.shape != targets.shape:
        raise ValueError(
            f'The student gives logits of shape {tuple(logits.shape)}, the teacher {tuple(targets.shape)}: '
            f'both need the same classes. Set num_classes of the head to those of the teacher, or choose a '
            f'teacher for this dataset.'
        )
    student = F.log_softmax(logits.float() / tau, dim=1)
    teacher = F.log_softmax(targets.float() / tau, dim=1)
    return tau**2 * F.kl_div(student, teacher, reduction='batchmean', log_target=True)


def check_head(head: nn.Module) -> None:
    """Check that the head has one set of logits and the loss of mmpretrain's ``ClsHead``.

    Raises:
        TypeError: If it does not.
    """
    kind = type(head)
    stock = isinstance(head, ClsHead) and (kind.loss, kind._get_loss) == (ClsHead.loss, ClsHead._get_loss)
    if not stock or getattr(head, 'distillation', False):
        raise TypeError(
            f'DistilledClassifier needs a head with one set of logits and the loss of ClsHead, such as '
            f'LinearClsHead or MobileMambaClsHead, not {kind.__name__}.'
        )
