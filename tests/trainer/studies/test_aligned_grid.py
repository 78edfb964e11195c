"""The study of noise and shift on GRID: its parts, and the engine against the trainer's windows
on the demo session, whose clips are GRID's."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.support import need_trainer

need_trainer()

import torch

import counterpoint.engine as engine
from counterpoint.engine.bundle import load_bundle
from counterpoint.engine.device import open_device
from counterpoint.engine.fuse import Feature
from counterpoint.engine.models import Models
from counterpoint.streams.errors import UsageError
from counterpoint.streams.runtime import SystemRuntime
from counterpoint.streams.types import AudioChunk, Float32Array, SourceEnded, VideoFrame
from counterpoint.trainer.data.recordings import GRID_FIELDS, GridClip, Word
from counterpoint.trainer.fit.dropout import states_of
from counterpoint.trainer.studies import grid_data, grid_model, grid_report, grid_stream
from counterpoint.trainer.studies.drawing import curves_svg

pytestmark = pytest.mark.trainer

MS = 1_000_000


def clip(path: str = "made.mp4", *, digit: str = "two") -> GridClip:
    texts = dict.fromkeys(GRID_FIELDS, "word") | {"colour": "red", "digit": digit}
    words = (
        Word(text=texts[field], start_ns=(500 + 300 * place) * MS, end_ns=(790 + 300 * place) * MS)
        for place, field in enumerate(GRID_FIELDS)
    )
    return GridClip(path=Path(path), words=tuple(words))


def noise_of(length: int) -> Float32Array:
    return np.random.default_rng(1).standard_normal(length).astype(np.float32)


def recording(sound: Float32Array) -> grid_stream.Recording:
    grey = np.zeros((32, 32), np.uint8)
    frames = tuple(
        VideoFrame(source="made.mp4", t_ns=place * 40 * MS, y=grey, sequence=place)
        for place in range(75)
    )
    first, last = grid_data.needed_cells(clip())
    return grid_stream.Recording(
        clip=clip(),
        frames=frames,
        sound=sound,
        start_ns=(first - 1) * grid_data.HOP_NS,
        end_ns=last * grid_data.HOP_NS,
    )


def test_a_window_ends_with_the_first_hop_that_is_not_before_the_words_end() -> None:
    digit, colour = grid_data.words_of(clip())
    assert (digit.head, digit.label, digit.last) == ("digit", 2, 50)  # 1,990 ms
    assert (colour.head, colour.label, colour.last) == ("colour", 2, 28)  # 1,090 ms
    assert grid_data.needed_cells(clip()) == (8, 50)
    with pytest.raises(UsageError, match=r"made\.mp4: 'word' is no digit"):
        grid_data.words_of(clip(digit="word"))


def test_no_clip_is_in_two_parts() -> None:
    clips = [clip(f"{number}.mp4") for number in range(20)]
    parts = grid_data.split_clips(clips, {"train": 9, "test": 11}, seed=3)
    assert sorted(one.path.name for part in parts.values() for one in part) == sorted(
        one.path.name for one in clips
    )
    assert parts == grid_data.split_clips(clips, {"train": 9, "test": 11}, seed=3)
    with pytest.raises(UsageError, match="20 clips are fewer than 21"):
        grid_data.split_clips(clips, {"train": 10, "test": 11}, seed=3)


def test_the_ratio_is_that_of_the_spoken_part() -> None:
    sound = np.concatenate((np.zeros(8000), np.sin(np.arange(8000)), np.zeros(8000)))
    sound, noise = sound.astype(np.float32), noise_of(24_000)
    for snr_db in (10.0, -10.0):
        added = grid_data.with_noise(sound, (8000, 16_000), noise, snr_db) - sound
        ratio = np.square(sound[8000:16_000]).mean() / np.square(added[8000:16_000]).mean()
        assert 10 * np.log10(ratio) == pytest.approx(snr_db, abs=0.01)
        assert np.corrcoef(added, noise)[0, 1] == pytest.approx(1, abs=1e-4)


def test_drawn_noise_goes_on_at_its_start() -> None:
    noise = np.arange(10, dtype=np.float32)
    found = grid_data.draw_noise([noise], 25, np.random.default_rng(0))
    assert found.shape == (25,)
    assert set(np.diff(found)) == {1.0, -9.0}


@pytest.mark.parametrize("shift_ms", [-400, -200, 0, 100, 400])
def test_a_shift_moves_sound_and_nothing_else(shift_ms: int) -> None:
    sound = np.arange(48_000, dtype=np.float32)
    made = recording(sound)
    silence = np.zeros(48_000, np.float32)
    condition = grid_stream.Condition(snr_db=None, shift_ms=shift_ms)
    items = grid_stream.items_of(made, silence, condition)
    assert [release for release, _ in items] == sorted(release for release, _ in items)
    for _, item in items:
        if isinstance(item, VideoFrame):
            assert (item.t_ns + made.start_ns) % (40 * MS) == 0
        elif isinstance(item, AudioChunk):
            # A sample's value is its place in the recording.
            at_ns = int(item.samples[0]) * 62_500
            assert item.t_ns + made.start_ns == at_ns + shift_ms * MS
    length_ns = made.end_ns - made.start_ns
    frames = [item for _, item in items if isinstance(item, VideoFrame)]
    assert len(frames) == length_ns // (40 * MS)
    chunks = [item for _, item in items if isinstance(item, AudioChunk)]
    last = chunks[-1]
    assert last.t_ns + len(last.samples) * 62_500 == length_ns
    # There is no sound from before the recording.
    assert chunks[0].t_ns == max(0, shift_ms * MS - made.start_ns)
    assert [type(item) for _, item in items[-2:]] == [SourceEnded, SourceEnded]


def test_the_interval_holds_the_mean_and_is_nothing_where_all_agree() -> None:
    mean, low, high = grid_report.interval(np.arange(100) % 4 == 0)
    assert low < mean == 0.25 < high
    assert grid_report.interval(np.ones(50, np.bool_)) == (1.0, 1.0, 1.0)


def test_answers_are_counted_by_condition() -> None:
    def word(head: str, said: int, shift_ms: int) -> dict[str, object]:
        heard = {"both": said, "audio": 1, "video": 0}
        return {"snr_db": 0.0, "shift_ms": shift_ms, "head": head, "actual": 1, "said": heard}

    rows = [
        {"words": [word("digit", 1, 0), word("digit", 0, 100), word("colour", 0, 0)]},
        {"words": [word("digit", 0, 0), word("digit", 0, 100)]},
    ]
    found = grid_report.right(rows, "digit")
    assert found[0.0, 0]["both"].tolist() == [True, False]
    assert found[0.0, 100]["both"].tolist() == [False, False]
    assert found[0.0, 0]["audio"].all()
    assert not found[0.0, 0]["video"].any()


def test_a_curve_has_a_value_for_each_place() -> None:
    with pytest.raises(ValueError, match="a: 1 values for 2 places"):
        curves_svg({"a": [(0.5, 0.4, 0.6)]}, ["x", "y"], x="x", y="y", title="t")


def test_the_engine_says_of_a_clip_what_the_model_says_of_its_windows(tmp_path: Path) -> None:
    """Face, sound, alignment and fusion of a session against windows made for training."""
    spoken = clip(str(Path(engine.__file__).parent / "demo" / "session.mp4"))
    sights = grid_data.read_sights(spoken, tmp_path / "clips")
    part = grid_model.Part(clips=[spoken], sights=[sights])
    specs = grid_model.measure(part)
    torch.manual_seed(0)
    model = grid_model.make_model("late").eval()
    grid_model.export(model, specs, tmp_path / "bundle", tmp_path / "onnx", card="# test\n")
    made = grid_stream.open_recording(spoken)
    noise = noise_of(len(made.sound))
    condition = grid_stream.Condition(snr_db=10.0)
    device = open_device("cpu")
    try:
        models = Models.load(load_bundle(tmp_path / "bundle"), device)
        seen: dict[int, Feature] = {}
        with SystemRuntime() as runtime:
            # The second time the pictures' embeddings are those of the first.
            played = [
                asyncio.run(grid_stream.fuse_words(models, made, noise, condition, seen, runtime))
                for _ in range(2)
            ]
    finally:
        device.close()
    sound = grid_data.with_noise(sights.sound, grid_data.spoken_span(spoken), noise, 10.0)
    for said in grid_data.words_of(spoken):
        window = grid_data.window_of(sights, sound, said.last, *specs)
        assert window["video_mask"].all()
        assert window["audio_mask"].all()
        batch = grid_data.stack([window])
        cells = model.encode(batch)
        for heard in ("both", "video", "audio"):
            kept = ("video", "audio") if heard == "both" else (heard,)
            given = {
                name: (values, mask if name in kept else torch.zeros_like(mask))
                for name, (values, mask) in cells.items()
            }
            with torch.inference_mode():
                state = states_of({name: mask for name, (_, mask) in given.items()})
                expected = model(given, state).fused[said.head][0].numpy()
            for fused in played:
                found = fused[said.head][heard].logits[said.head]
                # A cascade looks at every fourth picture, counted from where each begins, so
                # rectangles of the face differ by a pixel; and the first sound of the session,
                # in the colour's window, has silence before it. Else they agree to rounding.
                exact = heard == "audio" and said.head == "digit"
                atol = 1e-3 if exact else 0.03
                np.testing.assert_allclose(found, expected, atol=atol)
