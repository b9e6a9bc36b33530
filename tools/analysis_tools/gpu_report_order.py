"""The order in which ``gpu_report.py`` compiles networks, in waves that share the cores."""

import os

from gpu_report_worker import Job
from published import accuracies

from mmmobilemamba.models.backbones.arch import ARCHS

THREADS = 4  # at most, to compile one network; a single thread takes minutes
CORES = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
WIDTH = max(1, CORES // THREADS)  # networks that compile in parallel


def waves(jobs, focus, rates, width):
    """Jobs in the order of compilation, a few networks at a time.

    The focus comes first, then peers that are not more accurate (the fastest first), then other sizes of
    MobileMamba, then the remaining networks. Precisions measured for one network only come last.

    Args:
        jobs (list[Job]): Jobs of training or of inference.
        focus (tuple): Model and size.
        rates (dict[Job, float]): Images/s before compilation.
        width (int): Networks per wave.

    Returns:
        list[list[Job]]: Waves; all jobs of one network and precision are in the same wave.
    """
    groups = {}
    for job in jobs:
        groups.setdefault((job.model, job.size, job.precision), []).append(job)
    largest = {key: max(found, key=lambda job: job.batch) for key, found in groups.items()}

    def rank(key):
        job = largest[key]
        ours = Job(*focus, job.batch, job.train, job.precision)
        if job.precision not in ('amp', 'bfloat16'):
            kind = 4
        elif job == ours:
            kind = 0
        elif job.model in ARCHS:
            kind = 2
        else:
            kind = 1 if is_as_accurate(ours, job) else 3
        return kind, -rates.get(job, 0.0)

    keys = sorted(groups, key=rank)
    chunks = [keys[start : start + width] for start in range(0, len(keys), width)]
    return [[job for key in chunk for job in groups[key]] for chunk in chunks]


def is_as_accurate(ours, peer):
    """Whether ``ours`` is at least as accurate as ``peer``, for a kind of training published for both."""
    mine, theirs = (accuracies(job.model, job.size[0]) for job in (ours, peer))
    return any(mine[kind].top1 >= theirs[kind].top1 for kind in mine if kind in theirs)


def faster_peers(report):
    """Pairs of jobs in which a peer is faster than a MobileMamba that is at least as accurate (flat list).

    Compares accuracies of the same kind of training, and the fastest variants.
    """
    jobs = []
    for name, precision in (('training', 'amp'), ('inference', 'bfloat16')):
        speed = {}
        for row in report.rows(name):
            if row['batch'] in (report.train_batch, report.inference_batches[0]):
                key = Job(row['model'], tuple(row['size']), row['batch'], row['train'], precision)
                speed[key] = max(row['images_per_second'], speed.get(key, 0))
        for ours in [job for job in speed if job.model in ARCHS]:
            for peer in [job for job in speed if job.model not in ARCHS]:
                if speed[peer] > speed[ours] and is_as_accurate(ours, peer):
                    jobs += [ours, peer]
    return jobs
