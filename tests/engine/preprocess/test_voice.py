"""Frames of voice activity across hops and gaps, and the shipped graph on real speech."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoint.engine.bundle import default_bundle_path, load_bundle
from counterpoint.engine.device import Arrays, DeviceChoice, open_device
from counterpoint.engine.graphs import GraphSpec, Tolerance
from counterpoint.engine.preprocess.voice import VoiceActivity
from counterpoint.streams.types import Float32Array
from tests.support.media import grid_speech
from tests.support.requirements import require

HOP = 4000


class RecordingGraph:
    """Gives the last sample of each frame as its probability; the state counts the frames."""

    role = "vad"
    spec = GraphSpec(
        file="",
        precision="fp32",
        inputs=(),
        outputs=(),
        golden="",
        tolerance=Tolerance(atol=0, rtol=0),
    )

    def __init__(self) -> None:
        self.frames: list[Float32Array] = []
        self.ages: list[int] = []

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        frame, state = inputs["input"], inputs["state"]
        assert frame.shape == (1, 576)
        assert state.shape == (2, 1, 128)
        assert frame.dtype == state.dtype == np.float32
        assert inputs["sr"].dtype == np.int64
        assert inputs["sr"].tolist() == 16_000
        self.frames.append(frame[0].astype(np.float32))
        self.ages.append(int(state[0, 0, 0]))
        return {"output": frame[:, -1:], "stateN": state + np.float32(1.0)}


def ramp(samples: int) -> Float32Array:
    return np.arange(1, samples + 1, dtype=np.float32)


def test_frames_of_512_run_on_across_hops_each_with_the_64_samples_before_it() -> None:
    graph = RecordingGraph()
    voice = VoiceActivity(graph)
    sound = ramp(3 * HOP)
    counts = []
    for cell in sound.reshape(3, HOP):
        voice.push(cell)
        counts.append(len(graph.frames))
    assert counts == [7, 15, 23]
    padded = np.concatenate([np.zeros(64, np.float32), sound])
    for number, frame in enumerate(graph.frames):
        assert np.array_equal(frame, padded[512 * number : 512 * number + 576])
    assert graph.ages == list(range(23))


def test_the_hops_probability_is_that_of_its_loudest_frame() -> None:
    voice = VoiceActivity(RecordingGraph())
    sound = np.zeros(2 * HOP, np.float32)
    sound[[511, 1023, 4095]] = [0.25, 0.75, 0.5]  # ends of frames 0, 1 and 7
    assert voice.push(sound[:HOP]) == 0.75
    assert voice.push(sound[HOP:]) == 0.5


def test_a_gap_resets_the_state_and_the_rest_is_still_heard() -> None:
    graph = RecordingGraph()
    voice = VoiceActivity(graph)
    voice.push(ramp(HOP))
    graph.frames.clear()
    graph.ages.clear()
    valid = np.ones(HOP, np.bool_)
    valid[1000:2000] = False
    heard = voice.push(ramp(HOP), valid)
    # 416 samples are pending: one frame ends at 96 and another at 608 before the gap, then 3 of
    # the 2,000 samples after it, starting from nothing.
    assert graph.ages == [7, 8, 0, 1, 2]
    assert graph.frames[2][64:].tolist() == ramp(HOP)[2000:2512].tolist()
    assert not graph.frames[2][:64].any()
    assert heard == 2000 + 3 * 512


def test_the_loudest_frame_counts_on_either_side_of_a_gap() -> None:
    valid = np.ones(HOP, np.bool_)
    valid[1000:2000] = False
    for loudest, other in ((511, 2511), (2511, 511)):
        sound = np.zeros(HOP, np.float32)
        sound[[loudest, other]] = [0.75, 0.25]
        assert VoiceActivity(RecordingGraph()).push(sound, valid) == 0.75


def test_a_hop_that_ends_in_a_gap_leaves_nothing_behind() -> None:
    graph = RecordingGraph()
    voice = VoiceActivity(graph)
    valid = np.arange(HOP) < 100
    assert voice.push(ramp(HOP), valid) == 0.0
    assert voice.push(ramp(HOP), np.zeros(HOP, np.bool_)) == 0.0
    assert graph.frames == []
    voice.push(ramp(HOP))
    assert not graph.frames[0][:64].any()
    assert graph.frames[0][64] == 1.0


@given(mask=st.lists(st.tuples(st.booleans(), st.integers(1, 3_000)), min_size=1, max_size=8))
def test_every_valid_stretch_is_heard_for_itself(mask: list[tuple[bool, int]]) -> None:
    valid = np.concatenate([np.full(length, on) for on, length in mask])
    valid = np.resize(valid, 3 * HOP)
    graph = RecordingGraph()
    voice = VoiceActivity(graph)
    for cell, there in zip(ramp(3 * HOP).reshape(3, HOP), valid.reshape(3, HOP), strict=True):
        voice.push(cell, there)
    edges = [0, *(np.flatnonzero(np.diff(valid)) + 1).tolist(), len(valid)]
    frames = sum((end - start) // 512 for start, end in itertools.pairwise(edges) if valid[start])
    assert len(graph.frames) == frames
    assert graph.ages.count(0) <= len(edges)


def test_reset_forgets_pending_samples_and_state() -> None:
    graph = RecordingGraph()
    voice = VoiceActivity(graph)
    voice.push(ramp(HOP))
    voice.reset()
    voice.push(ramp(HOP))
    assert graph.ages == [*range(7), *range(7)]
    assert np.array_equal(graph.frames[0], graph.frames[7])


def test_the_shipped_graph_tells_speech_from_noise() -> None:
    require("the shipped bundle", default_bundle_path().is_dir(), "it is made by the trainer")
    device = open_device(DeviceChoice.CPU)
    try:
        voice = VoiceActivity(device.load(load_bundle(default_bundle_path()), "vad"))
        speech = [voice.push(cell) for cell in grid_speech().reshape(-1, HOP)]
        voice.reset()
        hiss = (0.02 * np.random.default_rng(1).standard_normal((12, HOP))).astype(np.float32)
        silence = [voice.push(cell) for cell in hiss]
    finally:
        device.close()
    # By the corpus' alignment the words last from 0.95 s to 2.12 s.
    assert min(speech[4:8]) > 0.5
    assert max(speech[:3] + speech[-2:]) < 0.5
    assert max(silence) < 0.5


def test_a_graphs_error_is_passed_on() -> None:
    class Broken(RecordingGraph):
        def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
            raise ValueError("out of order")

    with pytest.raises(ValueError, match="out of order"):
        VoiceActivity(Broken()).push(ramp(HOP))
