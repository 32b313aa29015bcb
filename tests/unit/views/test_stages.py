"""CPU time by stage: nested stages apart, threads apart, nothing lost."""

from __future__ import annotations

import threading
import time

from prometheus_client import CollectorRegistry, generate_latest

from gridtokenx.views.stages import Stage, StageCollector, Stages


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_an_inner_stage_does_not_count_to_the_outer() -> None:
    stages = Stages()
    began = time.thread_time()
    with stages.measure(Stage.EXECUTE):
        burn(0.02)
        with stages.measure(Stage.TREE):
            burn(0.04)
    whole = time.thread_time() - began
    seconds = stages.seconds()
    assert seconds["tree"] >= 0.04
    assert 0.02 <= seconds["execute"] <= whole - seconds["tree"]


def test_threads_in_different_stages_do_not_disturb_each_other() -> None:
    stages, together = Stages(), threading.Barrier(2)

    def work(stage: Stage) -> None:
        with stages.measure(stage):
            together.wait()
            burn(0.02)
            together.wait()

    threads = [threading.Thread(target=work, args=(one,)) for one in (Stage.VERIFY, Stage.ADMIT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = stages.seconds()
    assert seconds["verify"] >= 0.02
    assert seconds["admit"] >= 0.02
    assert seconds["decode"] == 0


def test_a_stage_that_fails_is_counted_and_left() -> None:
    stages, began = Stages(), time.thread_time()
    try:
        with stages.measure(Stage.ADMIT):
            burn(0.01)
            raise LookupError
    except LookupError:
        inside = time.thread_time() - began
        burn(0.02)
    assert 0.01 <= stages.seconds()["admit"] <= inside


def test_metrics_show_every_stage_and_their_sum_is_the_process() -> None:
    stages = Stages()
    registry = CollectorRegistry()
    registry.register(StageCollector(stages))
    with stages.measure(Stage.WRITE):
        burn(0.01)
    lines = generate_latest(registry).decode().splitlines()
    shown = [line for line in lines if line.startswith("gridtokenx_cpu_seconds_total{")]
    assert len(shown) == len(Stage) + 3
    assert any('stage="network"' in line for line in shown)
