from __future__ import annotations

import pytest

from dynamic_ofa_ros.errors import FamilyError, SimulationError
from dynamic_ofa_ros.simulation.scenario import load_scenario, scenario_names

SHIPPED = (
    'fixed_network',
    'frequency',
    'gpu_and_cpu',
    'limits',
    'step',
    'training_job',
    'two_models',
)
HEAD = 'format: dynamic_ofa_scenario\nversion: 1\ntitle: mine\nduration_s: 1.0\n'
MODEL = 'models: [{name: a, limit_ms: 65}]\n'

BAD = {
    'another format': ('format: recipe\nversion: 1\n', "format is 'recipe'"),
    'no models': (HEAD, 'models is missing'),
    'unknown key': (HEAD + MODEL + 'modles: []\n', 'modles means nothing here; known are'),
    'unknown key of a model': (
        HEAD + 'models: [{name: a, limit: 65}]\n',
        'models[0].limit means nothing here',
    ),
    'no limit': (HEAD + 'models: [{name: a}]\n', 'needs either limit_ms'),
    'both limits': (
        HEAD + 'models: [{name: a, limit_ms: 5, limits_ms: [[0, 5]]}]\n',
        'needs either limit_ms',
    ),
    'negative limit': (HEAD + 'models: [{name: a, limit_ms: -5}]\n', 'max_latency_ms is -5'),
    'limits that do not ascend': (
        HEAD + 'models: [{name: a, limits_ms: [[0, 5], [0, 6]]}]\n',
        '0 s follows 0 s',
    ),
    'limits that are no pairs': (
        HEAD + 'models: [{name: a, limits_ms: [5, 6]}]\n',
        'holds 5, not [time in s, a number]',
    ),
    'unknown policy': (
        HEAD + 'models: [{name: a, limit_ms: 65, policy: best, hold_s: 1}]\n',
        "no policy 'best'",
    ),
    'bad option': (
        HEAD + 'models: [{name: a, limit_ms: 65, policy: reactive, hold_s: -1}]\n',
        'hold_s is -1',
    ),
    'twins': (HEAD + 'models: [{name: a, limit_ms: 6}, {name: a, limit_ms: 5}]\n', 'same name'),
    'trace and jobs': (
        HEAD + MODEL + 'trace: {kind: step}\njobs: [{kind: constant, demand: 0.5}]\n',
        'leave out the trace or these',
    ),
    'trace without contents': (HEAD + MODEL + 'trace: {seed: 1}\n', 'exactly one of kind'),
    'trace of an unknown kind': (HEAD + MODEL + 'trace: {kind: x}\n', "kind of trace 'x'"),
    'job of an unknown kind': (
        HEAD + MODEL + 'jobs: [{kind: mining, demand: 1}]\n',
        "kind of job mining job is 'mining'",
    ),
    'job that is too hungry': (
        HEAD + MODEL + 'jobs: [{kind: constant, demand: 2}]\n',
        'demand of job constant job is 2',
    ),
    'sharing': (HEAD + MODEL + 'processor: {sharing: fair}\n', "sharing is 'fair'"),
    'another device without a trace': (
        HEAD + MODEL + 'other_devices: [{name: CPU, latency_factor: 2}]\n',
        'other_devices goes with a trace',
    ),
    'another device that is not described': (
        HEAD + MODEL + 'trace: {kind: step}\nother_devices: [{name: CPU}]\n',
        'device CPU needs either latency_factor',
    ),
    'another device with too few levels': (
        HEAD + MODEL + 'trace: {kind: step}\nother_devices: [{name: CPU, latencies_ms: [1, 2]}]\n',
        'it must hold 6 numbers',
    ),
    'another device of the same name': (
        HEAD
        + MODEL
        + 'trace: {kind: step}\nother_devices: [{name: A, latency_factor: 2}, '
        + '{name: A, latency_factor: 3}]\n',
        'two devices have the same name',
    ),
    'no mapping': ('[1, 2]\n', 'should be a mapping'),
    'no YAML': ('a: [\n', 'is not valid YAML'),
    'no number': (HEAD.replace('1.0', 'long') + MODEL, "duration_s is 'long'"),
}


@pytest.fixture
def write(tmp_path):
    def _write(text):
        path = tmp_path / 'mine.yaml'
        path.write_text(text, encoding='utf-8')
        return path

    return _write


def test_these_scenarios_are_shipped():
    assert scenario_names() == SHIPPED


@pytest.mark.parametrize('name', SHIPPED)
def test_a_shipped_scenario_plays(name, monkeypatch):
    policy = 'table' if name == 'gpu_and_cpu' else 'reactive'
    scenario = load_scenario(name).with_policy(policy)
    records = scenario.play()
    assert [record.name for record in records] == [model.name for model in scenario.models]
    for record, model in zip(records, scenario.models, strict=True):
        assert record.policy == policy
        assert len(record.frames) > 50
        assert record.frames[0].start_ms == model.begin_ms
        assert record.frames[-1].start_ms > min(scenario.duration_ms, model.end_ms) - 200.0
    assert [begin_s for begin_s, _ in scenario.phases] == sorted(b for b, _ in scenario.phases)
    for begin_s, end_s in scenario.busy_spans():
        assert 0.0 < begin_s < end_s <= scenario.duration_ms / 1e3


def test_spans_join_what_touches_and_end_with_the_scenario():
    assert load_scenario('fixed_network').busy_spans() == [(5.0, 20.0)]
    assert load_scenario('training_job').busy_spans() == [(2.5, 8.5)]
    assert load_scenario('two_models').busy_spans() == [(4.0, 12.0)]
    assert load_scenario('step').busy_spans() == [(6.0, 14.0)]
    assert load_scenario('limits').busy_spans() == []


def test_a_contended_device_is_left_for_another_and_taken_again():
    (record,) = load_scenario('gpu_and_cpu').play()
    assert len(record.platform.levels) == 12
    is_on_gpu = {frame.start_ms: frame.level <= 6 for frame in record.frames}
    assert all(on_gpu for start_ms, on_gpu in is_on_gpu.items() if start_ms < 12_000.0)
    contended = [on for start_ms, on in is_on_gpu.items() if 12_300.0 < start_ms < 20_000.0]
    assert sum(contended) < 0.1 * len(contended)
    assert all(on_gpu for start_ms, on_gpu in is_on_gpu.items() if start_ms > 26_000.0)
    assert sum(frame.is_violation for frame in record.frames) < 0.02 * len(record.frames)


def test_reactive_stays_on_the_first_of_two_devices():
    (record,) = load_scenario('gpu_and_cpu').with_policy('reactive').play()
    levels = {frame.level for frame in record.frames}
    assert max(levels) <= len(record.platform.levels) // 2


def test_limits_change_when_they_should(write):
    text = HEAD + 'models: [{name: a, limits_ms: [[0, 65], [0.5, 55]], policy: table}]\n'
    (record,) = load_scenario(write(text)).play()
    for frame in record.frames:
        assert frame.limit_ms == (65.0 if frame.start_ms < 500.0 else 55.0)


def test_everything_a_model_can_say_is_heard(write):
    text = HEAD + (
        'models: [{name: a, limit_ms: 65, min_accuracy: 0.75, quantile: 0.9, priority: accuracy, '
        'policy: fixed, fixed_level: 2, camera_period_ms: 100, switch_ms: 4, begin_s: 0.1, '
        'end_s: 0.7, noise: 0.05, levels: ofa_mbv3_w12_xavier_nx_gpu}]\n'
    )
    scenario = load_scenario(write(text))
    (model,) = scenario.models
    ((_, constraints),) = model.constraints
    assert (constraints.min_accuracy, constraints.quantile) == (0.75, 0.9)
    assert constraints.priority == 'accuracy'
    assert model.timing.switch_ms == 4.0
    assert model.platform.profile.levels[0].sd_ms > 2.0
    (record,) = scenario.play()
    assert [f.start_ms for f in record.frames] == pytest.approx([100, 200, 300, 400, 500, 600])
    assert {f.level for f in record.frames} == {2}


def test_a_trace_may_lie_in_a_file_beside_the_scenario(write, tmp_path):
    (tmp_path / 'slow.csv').write_text('time_ms,slowdown\n0,1\n400,1.2\n')
    scenario = load_scenario(write(HEAD + MODEL + 'trace: {file: slow.csv}\n'))
    (record,) = scenario.play()
    assert {frame.slowdown for frame in record.frames} == {1.0, 1.2}
    assert scenario.duration_ms == 1000.0


def test_the_seed_can_be_given_when_it_is_played(write):
    scenario = load_scenario(write(HEAD + MODEL + 'seed: 4\n'))
    assert scenario.play() == scenario.play(4)
    assert scenario.play() != scenario.play(5)


@pytest.mark.parametrize('name', BAD)
def test_a_bad_scenario_is_refused_with_a_sentence(name, write):
    text, expected = BAD[name]
    path = write(text)
    with pytest.raises((SimulationError, FamilyError)) as error:
        load_scenario(path)
    assert expected in str(error.value)
    assert str(path) in str(error.value)


def test_a_scenario_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SimulationError, match=r'no scenario absent: .*two_models'):
        load_scenario('absent')
    with pytest.raises(SimulationError, match='no scenario'):
        load_scenario(tmp_path)
