"""Two models on one CPU as a user starts them: real processes, a short scenario."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dynamic_ofa_ros.demo.recording import read_frames
from dynamic_ofa_ros.demo.two import MODELS, PLOT_FILE, SHARES
from dynamic_ofa_ros.family import families_directory

ROOT = Path(__file__).resolve().parents[2]
HAS_DEMO_FAMILY = (families_directory() / 'signs' / 'family.yaml').is_file()
SECONDS = 10.0

pytestmark = pytest.mark.long


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """Run the demo once; return its folder, exit status and what it printed."""
    if not HAS_DEMO_FAMILY:
        pytest.skip('needs the shipped family')
    folder = tmp_path_factory.mktemp('two')
    environment = dict(os.environ)
    environment['OMP_NUM_THREADS'] = '1'
    command = [sys.executable, '-m', 'dynamic_ofa_ros.cli.main', 'demo', '--two']
    command += ['--output', str(folder / 'out'), '--seconds', str(SECONDS)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
        cwd=ROOT,
        check=False,
    )
    return folder / 'out', done


def test_it_goes_to_its_end_and_says_what_it_wrote(finished):
    folder, done = finished
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'Traceback' not in done.stdout + done.stderr
    for name in (PLOT_FILE, *(f'{model}.{kind}' for model in MODELS for kind in ('csv', 'json'))):
        assert name in done.stdout
        assert (folder / name).stat().st_size > 0


def test_both_run_and_obey_until_one_dies(finished):
    folder, _ = finished
    last = list(SHARES)[-1]
    for model in MODELS:
        frames = read_frames(folder / f'{model}.csv')
        phases = {frame.phase for frame in frames}
        assert set(SHARES) - {last} <= phases
        limited = [f for f in frames if f.max_latency_ms == f.max_latency_ms]
        assert limited
        assert (last in phases) == (model == MODELS[0])
