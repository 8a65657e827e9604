from __future__ import annotations

from pathlib import Path

import pytest

from dynamic_ofa_ros.errors import FamilyError, SimulationError
from dynamic_ofa_ros.simulation.scenario import load_scenario, scenario_names

ROOT = Path(__file__).parents[2]
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
    'another format': (
        HEAD.replace('dynamic_ofa_scenario', 'recipe') + MODEL,
        "format: 'dynamic_ofa_scenario' was expected",
    ),
    'nothing': ('', "None is not of type 'object'"),
    'no models': (HEAD, "the file: 'models' is a required property"),
    'an empty list': (HEAD + 'models: []\n', 'models: [] '),
    'unknown key': (
        HEAD + MODEL + 'modles: []\n',
        "'modles' was unexpected); known keys are format, v",
    ),
    'unknown key of a model': (
        HEAD + 'models: [{name: a, limit: 65}]\n',
        "models[0]: Additional properties are not allowed ('limit' was unexpected); known keys",
    ),
    'a key that is no text': (HEAD + MODEL + '7: seven\n', '7 was unexpected'),
    'no limit': (
        HEAD + 'models: [{name: a}]\n',
        'model a requires exactly one of limit_ms, limits_ms',
    ),
    'both limits': (
        HEAD + 'models: [{name: a, limit_ms: 5, limits_ms: [[0, 5]]}]\n',
        'found limit_ms and limits_ms',
    ),
    'negative limit': (HEAD + 'models: [{name: a, limit_ms: -5}]\n', 'models[0].limit_ms: -5 is'),
    'huge limit': (HEAD + 'models: [{name: a, limit_ms: 1.0e+9}]\n', 'max_latency_ms is 1e+09'),
    'NaN': (
        HEAD + 'models: [{name: a, limit_ms: .nan}]\n',
        "limit_ms: nan is not of type 'number'",
    ),
    'infinity': (HEAD + 'models: [{name: a, limit_ms: .inf}]\n', "inf is not of type 'number'"),
    'a huge number': (
        HEAD + f'models: [{{name: a, limit_ms: 1{"0" * 400}}}]\n',
        "0 is not of type 'number'",
    ),
    'a boolean': (HEAD + 'models: [{name: a, limit_ms: true}]\n', "True is not of type 'number'"),
    'a date': (HEAD.replace('1.0', '2020-01-01') + MODEL, 'duration_s: datetime.date'),
    'no date': (HEAD.replace('1.0', '2020-13-45') + MODEL, 'is not valid YAML'),
    'too deep': ('[' * 100_000, 'is nested deeper than 100 levels'),
    'too long': (HEAD.replace('1.0', '1e9') + MODEL, 'duration_s'),
    'not UTF-8': (b'title: \xff\xfe', 'is not valid YAML'),
    'unknown scope': (
        HEAD + 'models: [{name: a, limit_ms: 5, scope: camera}]\n',
        "models[0].scope: 'camera' is not one of",
    ),
    'a level that is no integer': (
        HEAD + 'models: [{name: a, limit_ms: 5, fixed_level: 1.5}]\n',
        "fixed_level: 1.5 is not of type 'integer'",
    ),
    'a trace, and a time at which the model is there': (
        HEAD + 'trace: {kind: step}\nmodels: [{name: a, limit_ms: 5, begin_s: 0.5}]\n',
        'remove begin_s',
    ),
    'limits that do not ascend': (
        HEAD + 'models: [{name: a, limits_ms: [[0, 5], [0, 6]]}]\n',
        '0 s follows 0 s',
    ),
    'limits that are no pairs': (
        HEAD + 'models: [{name: a, limits_ms: [5, 6]}]\n',
        "models[0].limits_ms[1]: 6 is not of type 'array'; expected [time in s, value]",
    ),
    'unknown policy': (
        HEAD + 'models: [{name: a, limit_ms: 65, policy: best, hold_s: 1}]\n',
        "no policy 'best'",
    ),
    'bad option': (
        HEAD + 'models: [{name: a, limit_ms: 65, policy: reactive, hold_s: -1}]\n',
        'models[0].hold_s: -1 is less than the minimum of 0',
    ),
    'twins': (HEAD + 'models: [{name: a, limit_ms: 6}, {name: a, limit_ms: 5}]\n', 'same name'),
    'trace and jobs': (
        HEAD + MODEL + 'trace: {kind: step}\njobs: [{kind: constant, demand: 0.5}]\n',
        'remove the trace or these',
    ),
    'trace without contents': (
        HEAD + MODEL + 'trace: {seed: 1}\n',
        'trace requires exactly one of kind, file, steps, found none',
    ),
    'trace of an unknown kind': (HEAD + MODEL + 'trace: {kind: x}\n', "kind of trace 'x'"),
    'job of an unknown kind': (
        HEAD + MODEL + 'jobs: [{kind: mining, demand: 1}]\n',
        "jobs[0].kind: 'mining' is not one of ['training', 'periodic', 'constant']",
    ),
    'a constant job with a period': (
        HEAD + MODEL + 'jobs: [{kind: constant, demand: 1, period_ms: 5}]\n',
        'constant job is of kind constant; period_ms and busy_ms require kind periodic',
    ),
    'a model that begins too late': (
        HEAD + 'models: [{name: a, limit_ms: 5, begin_s: 1}]\n',
        'model a begins at 1 s, after the end',
    ),
    'job that is too hungry': (
        HEAD + MODEL + 'jobs: [{kind: constant, demand: 2}]\n',
        'jobs[0].demand: 2 is greater than the maximum of 1; expected share of the device',
    ),
    'sharing': (
        HEAD + MODEL + 'processor: {sharing: fair}\n',
        "processor.sharing: 'fair' is not one of",
    ),
    'another device without a trace': (
        HEAD + MODEL + 'other_devices: [{name: CPU, latency_factor: 2}]\n',
        'other_devices requires a trace',
    ),
    'another device that is not described': (
        HEAD + MODEL + 'trace: {kind: step}\nother_devices: [{name: CPU}]\n',
        'device CPU requires exactly one of latency_factor, latencies_ms',
    ),
    'another device with too few levels': (
        HEAD + MODEL + 'trace: {kind: step}\nother_devices: [{name: CPU, latencies_ms: [1, 2]}]\n',
        'it must have 6 numbers',
    ),
    'another device of the same name': (
        HEAD
        + MODEL
        + 'trace: {kind: step}\nother_devices: [{name: A, latency_factor: 2}, '
        + '{name: A, latency_factor: 3}]\n',
        'two devices have the same name',
    ),
    'no mapping': ('[1, 2]\n', "the file: [1, 2] is not of type 'object'"),
    'no YAML': ('a: [\n', 'is not valid YAML'),
    'no number': (
        HEAD.replace('1.0', 'long') + MODEL,
        "duration_s: 'long' is not of type 'number'; expected seconds",
    ),
}


@pytest.fixture
def write(tmp_path):
    def _write(text):
        path = tmp_path / 'mine.yaml'
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return _write


def test_all_shipped_scenarios_are_listed():
    assert scenario_names() == SHIPPED


@pytest.mark.parametrize('name', SHIPPED)
def test_a_shipped_scenario_can_be_simulated(name, monkeypatch):
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


def test_adjacent_spans_are_merged_and_end_with_the_scenario():
    assert load_scenario('fixed_network').busy_spans() == [(5.0, 20.0)]
    assert load_scenario('training_job').busy_spans() == [(2.5, 8.5)]
    assert load_scenario('two_models').busy_spans() == [(4.0, 12.0)]
    assert load_scenario('step').busy_spans() == [(6.0, 14.0)]
    assert load_scenario('limits').busy_spans() == []


def test_a_contended_device_is_left_for_another_one_temporarily():
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


def test_limits_change_at_the_given_times(write):
    text = HEAD + 'models: [{name: a, limits_ms: [[0, 65], [0.5, 55]], policy: table}]\n'
    (record,) = load_scenario(write(text)).play()
    for frame in record.frames:
        assert frame.limit_ms == (65.0 if frame.start_ms < 500.0 else 55.0)


def test_all_keys_of_a_model_take_effect(write):
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


def test_scope_and_overhead_add_to_the_latency(write):
    text = HEAD + (
        'models: [{name: a, limit_ms: 65, scope: end_to_end, policy: fixed, noise: 0, '
        'camera_period_ms: 100, transport_ms: 3, switch_ms: 0}]\n'
        'trace: {steps: [[0, 1.0], [0.5, 1.5, 4]]}\n'
    )
    (record,) = load_scenario(write(text)).play()
    outside_ms = [round(f.latency_ms - f.inference_ms, 6) for f in record.frames]
    assert outside_ms == [3.0] * 5 + [7.0] * 5
    assert [f.slowdown for f in record.frames] == [1.0] * 5 + [1.5] * 5


def test_the_file_of_a_trace_is_relative_to_the_scenario(write, tmp_path):
    (tmp_path / 'slow.csv').write_text('time_ms,slowdown\n0,1\n400,1.2\n')
    scenario = load_scenario(write(HEAD + MODEL + 'trace: {file: slow.csv}\n'))
    (record,) = scenario.play()
    assert {frame.slowdown for frame in record.frames} == {1.0, 1.2}
    assert scenario.duration_ms == 1000.0


def test_the_seed_can_be_given_for_a_simulation(write):
    scenario = load_scenario(write(HEAD + MODEL + 'seed: 4\n'))
    assert scenario.play() == scenario.play(4)
    assert scenario.play() != scenario.play(5)


@pytest.mark.parametrize('name', BAD)
def test_an_invalid_scenario_is_rejected_with_a_message(name, write):
    text, expected = BAD[name]
    path = write(text)
    with pytest.raises((SimulationError, FamilyError)) as error:
        load_scenario(path)
    assert expected in str(error.value)
    assert str(path) in str(error.value)


def test_an_unknown_scenario_is_rejected(tmp_path):
    with pytest.raises(SimulationError, match=r'no scenario absent: .*two_models'):
        load_scenario('absent')
    with pytest.raises(SimulationError, match='no scenario'):
        load_scenario(tmp_path)
