import pytest

from dynamic_ofa_ros.demo.output import OutputError, prepare_output


def test_a_new_folder_is_made_with_its_parents(tmp_path):
    folder = prepare_output(str(tmp_path / 'a' / 'b'))
    assert folder == tmp_path / 'a' / 'b'
    assert list(folder.iterdir()) == []


def test_an_empty_folder_will_do(tmp_path):
    assert prepare_output(str(tmp_path)) == tmp_path


def test_results_of_another_run_are_not_overwritten(tmp_path):
    (tmp_path / 'telemetry.csv').write_text('precious')
    with pytest.raises(OutputError, match=r'not empty \(it holds telemetry.csv\).*--output'):
        prepare_output(str(tmp_path))
    assert (tmp_path / 'telemetry.csv').read_text() == 'precious'


def test_a_file_is_no_folder(tmp_path):
    path = tmp_path / 'file'
    path.write_text('')
    for chosen in (path, path / 'below'):
        with pytest.raises(OutputError, match='is a file, not a folder'):
            prepare_output(str(chosen))


def test_a_place_where_nothing_can_be_made_is_refused():
    with pytest.raises(OutputError, match='cannot be written'):
        prepare_output('/proc/no/such/place')


def test_runs_within_one_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = {prepare_output(None) for _ in range(3)}
    assert len(folders) == 3
    assert all(folder.parent == tmp_path / 'demo_output' for folder in folders)
