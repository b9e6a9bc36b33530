"""Forks that run commands equal new processes: what a script sees, prints and exits with."""

import json
import sys

import pytest

from .commands import run

pytestmark = pytest.mark.slow

SEEN = """
import json, multiprocessing, os, sys, warnings
environ = dict(os.environ)
ours = [name for name in sys.modules if name.startswith('mmmobilemamba')]
method = multiprocessing.get_start_method(allow_none=True)
warnings.simplefilter('ignore')
import mmengine.runner, mmengine.visualization, mmseg.models
from mmengine import registry
scope = registry.DefaultScope.get_current_instance()
every = {name: value for name, value in vars(registry).items() if isinstance(value, registry.Registry)}
roots = {name: sorted(value.module_dict) for name, value in every.items()}
print(json.dumps(dict(
    argv=sys.argv, path=sys.path, cwd=os.getcwd(), environ=environ, name=__name__, file=__file__,
    stdin=sys.stdin.read(), ours=ours, method=method, scope=scope, roots=roots,
)))
"""
# Each ends in another way.
ENDS = dict(
    text="import sys\nsys.exit('no such option')",
    number='import sys\nprint(1)\nsys.exit(3)',
    error="import sys\nprint('first')\nsys.stdout.flush()\nraise ValueError('second')",
    nothing="import sys\nsys.stderr.write('all right')",
)


def write(folder, text):
    """Write a script, to which a link in another folder points, as in ``.mim``; its name there."""
    (folder / 'tools').mkdir()
    (folder / 'links').symlink_to(folder / 'tools')
    (folder / 'tools/script.py').write_text(text)
    return 'links/script.py'


def test_what_a_script_sees(tmp_path, monkeypatch):
    """No path of pytest, nothing of ours, and the registries that the codebase has by itself."""
    pytest.importorskip('mmseg')
    script = write(tmp_path, SEEN)
    monkeypatch.setenv('NEW', 'value')
    monkeypatch.setattr(sys, 'path', ['/nowhere', *sys.path])
    found = [
        json.loads(run('python', script, 'a b', '--c', cwd=tmp_path, fresh=fresh).splitlines()[-1])
        for fresh in (True, False)
    ]
    new, seen = found
    assert [name for name, value in new.items() if seen[name] != value] == []
    assert seen['argv'] == [script, 'a b', '--c'] and seen['environ']['NEW'] == 'value'
    assert seen['path'][0] == str(tmp_path / 'tools') and '/nowhere' not in seen['path']
    assert seen['method'] is seen['scope'] is None and seen['ours'] == []
    assert 'ResNet' not in seen['roots']['MODELS'] and 'BaseTTAModel' in seen['roots']['MODELS']


@pytest.mark.parametrize('end', ENDS)
def test_end(end, tmp_path):
    """Exit status and output, except for the frames of a traceback that are not in the script."""
    script, fails = write(tmp_path, ENDS[end]), end != 'nothing'
    lines = [
        run('python', script, cwd=tmp_path, fails=fails, fresh=fresh).splitlines() for fresh in (True, False)
    ]
    if end == 'error':
        lines[1][2:-3] = []
    assert lines[0] == lines[1]
