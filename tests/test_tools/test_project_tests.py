"""``make test-projects``: its settings for each project, and the error if one cannot be installed."""

import re

import pytest

from ..conftest import ROOT, load_script

project_tests = load_script('tools/misc/project_tests.py')
setup_env = load_script('tools/misc/setup_env.py')
PROJECTS = project_tests.PROJECTS


def test_each_project_has_pins_recipes_and_tests():
    assert {path.stem for path in (ROOT / 'requirements').glob('project-*.txt')} == {
        f'project-{name}' for name in PROJECTS
    }
    assert {path.name for path in (ROOT / 'configs/projects').iterdir() if path.is_dir()} == set(PROJECTS)
    assert {path.stem for path in (ROOT / 'tests/test_projects').glob('test_*.py')} == {
        f'test_{name}' for name in PROJECTS
    }
    for name in PROJECTS:
        lines = setup_env.read_lines(ROOT / f'requirements/project-{name}.txt')
        pins = [line for line in lines if not line.startswith('--')]
        assert all(re.fullmatch(r'[\w-]+==\S+', line) for line in pins)
        assert any(line.startswith(f'{name}==') for line in pins)


def test_each_recipe_is_on_the_page_and_inherits_from_its_project():
    page = (ROOT / 'configs/projects/README.md').read_text()
    for path in (ROOT / 'configs/projects').rglob('*.py'):
        name, text = path.parent.name, path.read_text()
        parent = re.search(
            rf"^_base_ = '{PROJECTS[name].package}::[\w/-]+/([\w-]+\.py)'$", text, re.MULTILINE
        )
        assert f'({name}/{path.name})' in page and f"{name}'s `{parent[1]}`" in page
        assert "type='MobileMamba'" in text and "type='TrainingCheckHook'" in text


def test_a_patch_fits_one_place(tmp_path):
    (tmp_path / 'a.py').write_text('most = 1\n')
    patch = project_tests.Patch('a.py', 'most = 1', 'most = 2', 'why')
    project_tests.apply(patch, tmp_path)
    assert (tmp_path / 'a.py').read_text() == 'most = 2\n'
    with pytest.raises(project_tests.StepError, match=r"does not have 'most = 1' once.*\n.*change PROJECTS"):
        project_tests.apply(patch, tmp_path)


@pytest.mark.parametrize(('passes', 'status'), [(('mmocr', 'mmpose'), 0), (('mmocr',), 1), ((), 1)])
def test_what_cannot_be_installed_is_named(passes, status, tmp_path, monkeypatch, capsys):
    def install(name, base, folder):
        assert (base.path, folder) == (tmp_path / 'env', tmp_path / 'envs')
        if name == 'mmrotate':
            raise project_tests.StepError('mmrotate did not install.')
        return name

    monkeypatch.setattr(project_tests, 'install', install)
    monkeypatch.setattr(project_tests, 'run_tests', lambda name, env: name in passes)
    arguments = [str(tmp_path / 'env'), str(tmp_path / 'envs'), 'mmocr', 'mmrotate', 'mmpose']
    if status:
        with pytest.raises(SystemExit) as exit_:
            project_tests.main(arguments)
        assert exit_.value.code == status
    else:
        project_tests.main(arguments)
    said = capsys.readouterr().out
    assert 'mmrotate did not install.' in said
    words = {name: 'passed' if name in passes else 'FAILED' for name in ('mmocr', 'mmpose')}
    words['mmrotate'] = 'skipped: cannot be installed here'
    assert said.splitlines()[-3:] == [f'{name:12}{words[name]}' for name in ('mmocr', 'mmrotate', 'mmpose')]


def test_no_such_project(tmp_path, capsys):
    with pytest.raises(SystemExit):
        project_tests.main([str(tmp_path), str(tmp_path), 'mmtrack'])
    assert 'there is no project mmtrack; there are mmpose, mmocr' in capsys.readouterr().err
