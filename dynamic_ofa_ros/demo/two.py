"""`dynamic-ofa demo --two`: two classifiers on one CPU choose their levels together.

Both receive the images of one camera. They first run without limits, then with limits; then one
becomes more important, and finally the other one is killed.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from dynamic_ofa_ros.demo.comparison import write_summary
from dynamic_ofa_ros.demo.session import SUMMARY_FILE, DemoResult, Session
from dynamic_ofa_ros.demo.view import Scene
from dynamic_ofa_ros.recordings.frames import write_frames
from dynamic_ofa_ros.recordings.measures import Run

MODELS = ('model_a', 'model_b')
SHARES = {'free run': 0.2, 'limits': 0.3, 'a matters more': 0.25, 'b has died': 0.25}
"""Phases, with their shares of the duration."""

LIMIT_SHARES = (0.85, 0.65)
"""Limits of the classifiers, as shares of the latency while both run their highest level."""

IMPORTANCE = 10.0
SCOPE = 'inference'
PICTURE_FILE = 'two_models.png'


class TwoModels(Session):
    """Two classifiers, one camera, one CPU."""

    begin_ns = 0
    marks: tuple[tuple[float, str], ...] = ()

    def play(self) -> None:
        """Start the processes and run the phases."""
        parameters = {'manager.coordination': 'collective', 'constraints.latency_scope': SCOPE}
        for name in MODELS:
            self.start_classifier(name, parameters, f'/{name}')
        self.start_camera()
        self.begin_ns = time.time_ns()
        for phase, share in SHARES.items():
            self.stage = phase
            self.marks += (((time.time_ns() - self.begin_ns) / 1e9, phase),)
            self._begin(phase)
            self.spin_for(share * self.options.seconds)

    def finish(self, status: int, message: str) -> DemoResult:
        """Write frames, a summary per model and phase, and the picture."""
        runs = [run for run in self._runs() if run.frames]
        if not runs:
            return DemoResult(status, message)
        files = [self.output / f'{run.title}.csv' for run in runs]
        for run, path in zip(runs, files, strict=True):
            write_frames(run.frames, path)
        phases = [part for run in runs for part in _phases(run)]
        files.append(self.output / SUMMARY_FILE)
        write_summary({'conditions': self.conditions(message)}, phases, files[-1])
        if self.options.has_plots and not status:
            from dynamic_ofa_ros.plotting.style import save_figure
            from dynamic_ofa_ros.recordings.picture import plot_runs

            caption = (
                'Two classifiers on one CPU choose their levels together. A dot is the inference '
                'time of an image.'
            )
            files.append(save_figure(plot_runs(runs, caption), self.output / PICTURE_FILE))
        return DemoResult(status, message, files, phases)

    def scene(self) -> Scene:
        """Return the runs of both models so far."""
        runs = self._runs()
        return Scene(f'two models on one CPU   {self.address}', self.stage, runs, runs)

    def _begin(self, phase: str) -> None:
        if phase == 'limits':
            for link, recorder, share in zip(
                self.links, self.recorders, LIMIT_SHARES, strict=True
            ):
                # The latency settles during the first half of the answers.
                answers = recorder.answers(self.begin_ns)
                top_ms = np.median(
                    [answer.inference_ms for answer in answers[len(answers) // 2 :]]
                )
                link.set_parameters(
                    {'constraints.max_latency_ms': round(share * float(top_ms), 2)}
                )
        elif phase == 'a matters more':
            self.links[0].set_parameters({'manager.importance': IMPORTANCE})
        elif phase == 'b has died':
            self.supervisor.kill(MODELS[1])

    def _runs(self) -> list[Run]:
        """Return the run of each model so far, with the inference latencies."""
        if not self.begin_ns:
            return []
        runs = []
        for name, recorder in zip(MODELS, self.recorders, strict=True):
            span_ns = (self.begin_ns, time.time_ns(), self.begin_ns)
            frames = [
                replace(frame, latency_ms=frame.inference_ms)
                for frame in recorder.frames(name, *span_ns)
                if frame.is_answered
            ]
            switches, count = recorder.switches(*span_ns), recorder.level_count
            seconds = self.options.seconds
            runs.append(Run(name, seconds, frames, switches, (), self.marks, count))
        return runs


def _phases(run: Run) -> list[Run]:
    """Return the parts of a run between its marks that contain images."""
    ends_s = [time_s for time_s, _ in run.marks[1:]] + [run.seconds]
    parts = [
        replace(
            run,
            title=f'{run.title}: {name}',
            frames=[frame for frame in run.frames if begin_s <= frame.time_s < end_s],
            switches=[switch for switch in run.switches if begin_s <= switch.time_s < end_s],
        )
        for (begin_s, name), end_s in zip(run.marks, ends_s, strict=True)
    ]
    return [part for part in parts if part.frames]
