"""A network that several of these tests export, and short timings."""

import pytest


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    """Config and checkpoint of a classifier (two str)."""
    pytest.importorskip('mmpretrain')
    from .networks import checkpoint_of, config_of

    folder = tmp_path_factory.mktemp('classifier')
    config = folder / 'config.py'
    config_of('classifier').dump(config)
    return str(config), str(checkpoint_of('classifier', folder))


@pytest.fixture
def short_timing(monkeypatch):
    """Files in reduced precision are timed by the fewest calls instead of for two seconds."""
    from mmmobilemamba.deployment import report

    milliseconds = report.milliseconds
    monkeypatch.setattr(report, 'milliseconds', lambda runs, seconds=0: milliseconds(runs, 0))
