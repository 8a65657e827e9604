"""Images, answers, truth, drops and the scope of the limit are read from recordings."""

from __future__ import annotations

import math

import pytest
from bags import PERIOD_NS, drive, telemetry, told, truths, write_bag
from demo.made_up import three_runs, unanswered
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from vision_msgs.msg import Classification, ObjectHypothesis

from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.demo.comparison import SWITCHING
from dynamic_ofa_ros.errors import RecordingError
from dynamic_ofa_ros.msg import Level, LevelArray
from dynamic_ofa_ros.recordings.bag import Bag
from dynamic_ofa_ros.recordings.frames import write_frames
from dynamic_ofa_ros.recordings.measures import measure
from dynamic_ofa_ros.recordings.messages import class_id_of
from dynamic_ofa_ros.recordings.reading import read

PERIOD_S = PERIOD_NS / 1e9


def recorded(folder, messages):
    """Return the recording from a bag with these messages."""
    path = write_bag(folder / 'drive', messages)
    return read(str(path), 'A')


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_every_answer_of_a_bag_is_an_image(tmp_path, storage):
    table = LevelArray(family='signs', levels=[Level(index=1)])
    messages = [
        ('/classifier/levels', table, told([telemetry(0)])[0][2]),
        *told(telemetry(n) for n in range(20)),
    ]
    path = write_bag(tmp_path / 'drive', messages, storage=storage)
    found = read(str(path), 'A')
    assert (found.kind, found.family, found.policies) == ('bag', 'signs', ('predictive',))
    assert (found.platforms, found.limits_ms, found.answers) == (('cpu',), (10.0,), 20)
    assert [f.time_s for f in found.run.frames] == pytest.approx([n * PERIOD_S for n in range(20)])
    assert {f.latency_ms for f in found.run.frames} == {6.0}
    assert list(found.stages['preprocess_ms']) == [0.75] * 20
    assert not found.has_truth
    assert (found.run.title, found.run.level_count) == ('A', 8)
    assert found.run.seconds == pytest.approx(19 * PERIOD_S)


def test_truth_is_joined_by_the_stamp_of_the_image(tmp_path):
    found = recorded(tmp_path, [*told(telemetry(n) for n in range(10)), *truths(8, wrong=[1, 4])])
    assert [f.is_right for f in found.run.frames] == [n not in (1, 4, 8, 9) for n in range(10)]
    assert [f.truth for f in found.run.frames[8:]] == ['', '']
    assert measure(found.run).right == pytest.approx(6 / 8)


def test_truth_without_names_is_joined_by_class_id(tmp_path):
    messages = [*told(telemetry(n) for n in range(6)), *truths(6, wrong=[2])[1:]]
    found = recorded(tmp_path, messages)
    assert [f.is_right for f in found.run.frames] == [True, True, False, True, True, True]


def test_images_that_were_counted_but_not_answered_are_late(tmp_path):
    """After the third answer two images were lost and one was dropped."""
    later = {'lost_frames': 5, 'dropped_frames': 3}
    messages = [telemetry(n, lost_frames=3, dropped_frames=2) for n in range(3)]
    messages += [telemetry(n, **later) for n in range(3, 6)]
    found = recorded(tmp_path, told(messages))
    assert found.drops == {
        'lost_frames': 2, 'dropped_frames': 1, 'rejected_frames': 0, 'failed_frames': 0,
    }  # fmt: skip
    assert [f.is_answered for f in found.run.frames] == [True] * 3 + [False] * 3 + [True] * 3
    measures = measure(found.run)
    assert (measures.images, measures.answered) == (9, 6)
    assert measures.late == pytest.approx(3 / 9)
    times_s = [f.time_s for f in found.run.frames]
    assert times_s == sorted(times_s)


def test_unanswered_images_count_as_not_right_if_the_truth_is_known(tmp_path):
    messages = [telemetry(0), telemetry(1, dropped_frames=2)]
    found = recorded(tmp_path, [*told(messages), *truths(2)])
    assert measure(found.run).right_on_time == pytest.approx(2 / 4)
    assert measure(found.run).right == 1.0


def test_counts_continue_after_a_restart_of_the_classifier(tmp_path):
    messages = [telemetry(n, dropped_frames=40) for n in range(4)]
    messages += [telemetry(n, sequence=n - 3, dropped_frames=1) for n in range(4, 8)]
    found = recorded(tmp_path, told(messages))
    assert found.drops['dropped_frames'] == 1
    assert found.answers == 8


def test_counts_from_before_the_recording_are_left_out_after_a_restart(tmp_path):
    messages = [telemetry(n, dropped_frames=n) for n in range(6000, 6004)]
    messages += [telemetry(n, dropped_frames=500 + n) for n in range(5000, 5004)]
    found = recorded(tmp_path, told(messages))
    assert found.drops['dropped_frames'] == 3 + 3
    assert found.answers == 8


def test_two_classifiers_on_one_topic_are_reported(tmp_path):
    messages = [telemetry(n // 2 + 3000 * (n % 2)) for n in range(100)]
    with pytest.raises(RecordingError, match='several classifiers on /classifier/telemetry'):
        recorded(tmp_path, told(messages))


@pytest.mark.parametrize('lost_frames', [10**6, 2**64 - 1])
def test_implausible_counts_are_reported(tmp_path, lost_frames):
    messages = [telemetry(0), telemetry(1, lost_frames=lost_frames)]
    with pytest.raises(RecordingError, match=f'is damaged: .* {lost_frames} images without'):
        recorded(tmp_path, told(messages))


def test_values_that_are_not_finite_are_not_measured(tmp_path):
    messages = [telemetry(n, node_ms=(6.0, math.inf, math.nan)[n % 3]) for n in range(9)]
    found = recorded(tmp_path, told(messages))
    assert [f.time_s for f in found.run.frames] == sorted(f.time_s for f in found.run.frames)
    assert found.run.seconds < 1.0


@pytest.mark.parametrize('class_id', ['', '-1', 'stop', '9' * 5000, '\N{SUPERSCRIPT TWO}'])
def test_a_class_that_is_not_a_number_is_unknown(class_id):
    assert class_id_of(Classification(results=[ObjectHypothesis(class_id=class_id)])) == -1
    assert class_id_of(Classification()) == -1


@pytest.mark.parametrize('scope', ['inference', 'node', 'end_to_end'])
def test_the_scope_follows_from_the_number_of_late_images(tmp_path, scope):
    """The number of late images differs by scope: 3, 5 and 7."""
    late = {'inference': 3, 'node': 5, 'end_to_end': 7}
    messages = [
        telemetry(
            n,
            violations=min(n, late[scope]),
            **{f'{name}_ms': 20.0 for name, count in late.items() if 0 < n <= count},
        )
        for n in range(20)
    ]
    found = recorded(tmp_path, told(messages))
    assert found.scope == scope
    assert sum(f.is_late for f in found.run.frames) == late[scope]


def test_without_a_stamp_the_latency_in_the_node_counts(tmp_path):
    messages = [
        telemetry(n, end_to_end_ms=math.nan if n == 3 else 30.0, violations=n - (n > 2))
        for n in range(6)
    ]
    found = recorded(tmp_path, told(messages))
    assert found.scope == 'end_to_end'
    assert found.run.frames[3].latency_ms == 6.0


def test_thinned_telemetry_is_detected(tmp_path):
    found = recorded(tmp_path, told(telemetry(n, sequence=1 + 5 * n) for n in range(10)))
    assert len(found.run.frames) == 10
    assert found.answers == 46


def test_one_of_several_classifiers_is_chosen_by_name(tmp_path):
    messages = [
        *told((telemetry(n) for n in range(4)), '/front/classifier'),
        *told((telemetry(n, level=5) for n in range(4)), '/rear/classifier'),
    ]
    path = write_bag(tmp_path / 'drive', messages)
    assert read(f'{path}:/rear/classifier', 'B').run.frames[0].level == 5
    with pytest.raises(RecordingError, match=r'several classifiers; give .*:NAME, NAME of /front'):
        read(str(path), 'A')
    with pytest.raises(RecordingError, match='no classifier /left; give'):
        read(f'{path}:/left', 'A')


def test_the_error_for_a_bag_without_telemetry_says_what_to_record(tmp_path):
    path = write_bag(tmp_path / 'drive', drive(2))
    with pytest.raises(RecordingError, match='record the topic ~/telemetry'):
        read(str(path), 'A')


def test_telemetry_of_another_version_is_read_with_the_definition_in_the_bag(tmp_path):
    """Existing fields are read; the error names the missing field."""
    kind = 'dynamic_ofa_ros/msg/Telemetry'
    store = get_typestore(Stores.LATEST)
    store.register(get_types_from_msg('std_msgs/Header header\nint32 level\n', kind))
    stamp = store.types['builtin_interfaces/msg/Time'](1, 0)
    message = store.types[kind](store.types['std_msgs/msg/Header'](stamp, 'eye'), 7)
    with Writer(tmp_path / 'old', version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection('/classifier/telemetry', kind, typestore=store)
        writer.write(connection, 1, store.serialize_cdr(message, kind))
    with Bag(tmp_path / 'old') as bag:
        assert bag.first('/classifier/telemetry').level == 7
    with pytest.raises(RecordingError, match=r"another version of this package: .*'node_ms'"):
        read(str(tmp_path / 'old'), 'A')


# CSV files.


def test_frames_of_the_demo_are_read_as_they_were(tmp_path):
    runs = three_runs()
    frames = [frame for run in runs for frame in run.frames]
    path = tmp_path / 'frames.csv'
    write_frames(frames, path)
    found = read(f'{path}:{SWITCHING}', 'B')
    wanted, measures = measure(runs[2]), measure(found.run)
    assert (found.kind, found.scope, found.policies) == ('demo', 'node', (SWITCHING,))
    for name in ('images', 'late', 'late_loaded', 'right', 'right_on_time', 'switches', 'levels'):
        assert getattr(measures, name) == pytest.approx(getattr(wanted, name)), name
    assert measures.recovery.frames == wanted.recovery.frames
    ((begin_s, end_s),) = found.run.loads
    assert (begin_s, end_s) == pytest.approx((5.0, 12.0))
    with pytest.raises(RecordingError, match=r'several runs.*highest level'):
        read(str(path), 'A')


def test_a_reaction_is_that_of_the_demo(tmp_path):
    runs = three_runs()
    path = tmp_path / 'frames.csv'
    write_frames(runs[0].frames, path)
    found = measure(read(str(path), 'A').run)
    assert found.reaction == measure(runs[0]).reaction
    assert not found.reaction.is_over


def test_unanswered_images_of_the_demo_stay_unanswered(tmp_path):
    path = tmp_path / 'frames.csv'
    write_frames([*three_runs()[0].frames[:3], unanswered(run='highest level', time_s=9.0)], path)
    found = read(str(path), 'A')
    assert found.drops == {'unanswered': 1}
    assert found.run.frames[-1].is_late


def test_frames_of_a_simulation_are_read(tmp_path, capsys):
    path = tmp_path / 'frames.csv'
    simulate = ['simulate', '--kind', 'burst', '--limit-ms', '60', '--duration-s', '20', '--json']
    assert main([*simulate, '--frames', str(path)]) == 0
    said = capsys.readouterr().out
    found = read(str(path), 'A')
    assert found.kind == 'simulation'
    assert f'"frames": {len(found.run.frames)}' in said
    assert f'"violations": {sum(f.is_late for f in found.run.frames)}' in said
    assert f'"switches": {measure(found.run).switches}' in said


ROW = (
    'run,time_s,is_loaded,truth,label,level,level_accuracy,latency_ms,inference_ms,limit_ms\n'
    'a,1.5,0,stop,stop,1,0.9,5,4,6\n'
)


def test_a_csv_file_of_a_spreadsheet_is_read(tmp_path):
    path = tmp_path / 'frames.csv'
    path.write_text(ROW, encoding='utf-8-sig')
    assert [frame.latency_ms for frame in read(str(path), 'A').run.frames] == [5.0]


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('', 'has no rows'),
        ('a,b\n1,2\n', 'neither frames.csv of the demo'),
        ('run\nx\n', "neither frames.csv of the demo .* it has no column 'time_s'"),
        (ROW.replace('1.5', 'soon'), "neither .* could not convert string to float: 'soon'"),
        (ROW.replace('1.5', 'nan'), 'neither .* a time is not finite'),
        (f'{ROW}a,2.0,0,st', 'line 3 and the first line have different numbers of columns'),
        ('"a\n', 'not a CSV file'),
    ],
)
def test_other_csv_files_are_rejected(tmp_path, text, words):
    path = tmp_path / 'frames.csv'
    path.write_text(text)
    with pytest.raises(RecordingError, match=words):
        read(str(path), 'A')


@pytest.mark.parametrize('name', ['nowhere', 'nowhere.csv', 'nowhere:/classifier'])
def test_a_missing_recording_is_named(tmp_path, name):
    with pytest.raises(RecordingError, match=f'{name} (does not exist|is not a file); give'):
        read(str(tmp_path / name), 'A')
