"""Recorded files through `MediaFileSource`: what comes out, when, and what a bad file does."""

from __future__ import annotations

import itertools
import logging
import socket
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from counterpoint.streams.errors import SourceError, UsageError
from counterpoint.streams.merge import MAX_ITEMS_PER_STEP, RANK
from counterpoint.streams.replay import MediaFileSource
from counterpoint.streams.types import (
    NS_PER_S,
    AudioChunk,
    Item,
    Modality,
    SourceEnded,
    VideoFrame,
    modality_of,
)
from tests.support.media_files import damage, index_of, luma_of, sine, truncate, write_media

GRID_CLIP = Path(__file__).parents[1] / "data" / "grid_clip.mp4"
MS = 1_000_000


def drain(source: MediaFileSource, look_ahead_ns: int = 0) -> list[tuple[int, Item]]:
    """All items, stepping when the source asks for it and ``look_ahead_ns`` further."""
    items: list[tuple[int, Item]] = []
    now_ns: int | None = 0
    while now_ns is not None:
        step = source.step(now_ns + look_ahead_ns)
        items += step.items
        now_ns = step.next_wake_ns
    source.close()
    return items


def pictures(items: list[tuple[int, Item]]) -> list[VideoFrame]:
    return [item for _, item in items if isinstance(item, VideoFrame)]


def chunks(items: list[tuple[int, Item]]) -> list[AudioChunk]:
    return [item for _, item in items if isinstance(item, AudioChunk)]


def ends(items: list[tuple[int, Item]]) -> dict[Modality, SourceEnded]:
    return {item.modality: item for _, item in items if isinstance(item, SourceEnded)}


def key(release_ns: int, item: Item) -> tuple[object, ...]:
    match item:
        case VideoFrame():
            return release_ns, item.t_ns, item.sequence, item.y.tobytes()
        case AudioChunk():
            return release_ns, item.t_ns, item.sequence, item.samples.tobytes()
        case _:
            return release_ns, item


def test_the_grid_clip_comes_out_whole_and_in_release_order() -> None:
    source = MediaFileSource(GRID_CLIP)
    assert source.modalities == {Modality.VIDEO, Modality.AUDIO}
    assert source.duration_ns == 3 * NS_PER_S
    items = drain(source)
    assert [frame.t_ns for frame in pictures(items)] == [i * 40 * MS for i in range(75)]
    assert {frame.y.shape for frame in pictures(items)} == {(160, 160)}
    sound = chunks(items)
    assert all(b.t_ns == a.end_ns for a, b in itertools.pairwise(sound))
    assert sum(len(chunk.samples) for chunk in sound) == 48_128
    # By the alignments of the corpus, speech lasts from 0.95 s to 2.12 s.
    samples = np.concatenate([chunk.samples for chunk in sound])
    spoken, silent = samples[15_200:33_920], np.r_[samples[:12_000], samples[38_000:]]
    assert np.square(spoken).mean() > 50 * np.square(silent).mean()
    assert [end.error for end in ends(items).values()] == [None, None]
    releases = [release_ns for release_ns, _ in items]
    assert releases == sorted(releases)
    assert source.decode_errors == source.timestamp_repairs == 0


def test_a_picture_is_released_at_its_instant_and_sound_at_its_end() -> None:
    for release_ns, item in drain(MediaFileSource(GRID_CLIP)):
        expected = item.end_ns if isinstance(item, AudioChunk) else item.t_ns
        assert release_ns == expected


@pytest.mark.parametrize("look_ahead_ms", [1, 40, 250, 100_000])
def test_the_order_is_the_same_at_any_pace_of_stepping(look_ahead_ms: int) -> None:
    plain = [key(*pair) for pair in drain(MediaFileSource(GRID_CLIP))]
    paced = [key(*pair) for pair in drain(MediaFileSource(GRID_CLIP), look_ahead_ms * MS)]
    assert paced == plain


def test_items_released_at_the_same_instant_come_video_first(tmp_path: Path) -> None:
    # Chunks end every 32 ms, pictures come every 40 ms: every 160 ms at the same instant.
    path = write_media(tmp_path / "a.mkv", audio_codec="pcm_s16le", seconds=1.0)
    items = drain(MediaFileSource(path))
    order = [(release_ns, RANK[modality_of(item)]) for release_ns, item in items]
    assert order == sorted(order)
    assert {160 * MS, 320 * MS} <= {a for (a, _), (b, _) in itertools.pairwise(order) if a == b}


def test_a_late_step_is_bounded_and_says_that_there_is_more() -> None:
    source = MediaFileSource(GRID_CLIP)
    step = source.step(60 * NS_PER_S)
    assert len(step.items) == MAX_ITEMS_PER_STEP
    assert step.next_wake_ns is not None
    assert step.next_wake_ns < 3 * NS_PER_S
    source.close()


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_bidirectional_pictures_come_in_presentation_order(tmp_path: Path, ending: str) -> None:
    path = write_media(tmp_path / f"b.{ending}", video_codec="libx264", b_frames=3, seconds=1.5)
    frames = pictures(drain(MediaFileSource(path)))
    assert [index_of(frame.y.mean()) for frame in frames] == list(range(37 + 1))
    assert [frame.sequence for frame in frames] == list(range(38))
    gaps = {b.t_ns - a.t_ns for a, b in itertools.pairwise(frames)}
    assert all(abs(gap - 40 * MS) <= MS for gap in gaps)


def test_a_variable_frame_rate_keeps_each_instant(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.5, 0.512, 1.9]
    path = write_media(tmp_path / "v.mkv", times=times, audio_codec=None)
    frames = pictures(drain(MediaFileSource(path)))
    assert [frame.t_ns for frame in frames] == [round(t * NS_PER_S) for t in times]
    assert [index_of(frame.y.mean()) for frame in frames] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("audio_start", [0.0, 0.5])
def test_a_start_offset_of_the_container_does_not_shift_the_modalities(
    tmp_path: Path, audio_start: float
) -> None:
    path = write_media(
        tmp_path / "o.mkv",
        audio_codec="pcm_s16le",
        video_start=10.0,
        audio_start=10.0 + audio_start,
    )
    items = drain(MediaFileSource(path))
    assert pictures(items)[0].t_ns == 0
    assert chunks(items)[0].t_ns == int(audio_start * NS_PER_S)
    assert [end.error for end in ends(items).values()] == [None, None]


def test_sound_keeps_its_rate_and_is_the_mean_of_its_channels(tmp_path: Path) -> None:
    path = write_media(
        tmp_path / "s.mkv", audio_codec="pcm_s16le", channels=2, rate_hz=44_100, seconds=1.0
    )
    sound = chunks(drain(MediaFileSource(path)))
    assert {chunk.rate_hz for chunk in sound} == {44_100}
    samples = np.concatenate([chunk.samples for chunk in sound])
    np.testing.assert_allclose(samples, sine(44_100, 44_100) / 2, atol=1e-4)  # right is silent


@pytest.mark.parametrize(
    ("codec", "tolerance"),
    [
        ("pcm_u8", 1e-2),
        ("pcm_s16le", 1e-4),
        ("pcm_s24le", 1e-5),
        ("pcm_s32le", 1e-6),
        ("pcm_f32le", 1e-6),
        ("pcm_f64le", 1e-6),
        ("flac", 1e-4),
    ],
)
def test_every_sample_format_gives_the_same_sound(
    tmp_path: Path, codec: str, tolerance: float
) -> None:
    path = write_media(
        tmp_path / "f.mkv", audio_codec=codec, video_codec=None, channels=2, seconds=0.5
    )
    samples = np.concatenate([chunk.samples for chunk in chunks(drain(MediaFileSource(path)))])
    np.testing.assert_allclose(samples, sine(8_000, 16_000) / 2, atol=tolerance)


def test_long_runs_of_sound_are_cut_into_live_sized_chunks(tmp_path: Path) -> None:
    path = write_media(tmp_path / "l.flac", video_codec=None, audio_codec="flac", seconds=3.0)
    with av.open(str(path)) as container:
        assert max(frame.samples for frame in container.decode(audio=0)) > 512
    sound = chunks(drain(MediaFileSource(path)))
    assert max(len(chunk.samples) for chunk in sound) <= 512  # 32 ms
    assert all(b.t_ns - a.end_ns in (0, 1) for a, b in itertools.pairwise(sound))
    assert sum(len(chunk.samples) for chunk in sound) == 48_000


def test_float_sound_outside_its_range_is_clipped_and_nan_is_silence(tmp_path: Path) -> None:
    path = tmp_path / "n.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=16_000, layout="mono")
        samples = np.array([[0.5, 3.0, -3.0, np.nan, np.inf, -np.inf] * 100], np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    got = np.concatenate([chunk.samples for chunk in chunks(drain(MediaFileSource(path)))])
    assert got[:6].tolist() == [0.5, 1.0, -1.0, 0.0, 1.0, -1.0]


def test_pictures_of_odd_size_come_without_line_padding(tmp_path: Path) -> None:
    path = write_media(
        tmp_path / "odd.mkv", size=(63, 47), video_codec="ffv1", audio_codec=None, seconds=0.2
    )
    for index, frame in enumerate(pictures(drain(MediaFileSource(path)))):
        assert frame.u is not None
        assert frame.v is not None
        assert frame.y.shape == (47, 63)
        assert frame.u.shape == frame.v.shape == (24, 32)
        assert np.all(frame.y == luma_of(index))
        assert np.all(frame.u == 128)
        assert frame.y.flags.c_contiguous
        assert not frame.y.flags.writeable
        assert not frame.full_range


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "full_range", "white", "black"),
    [
        ("ffv1", "yuv420p", False, 235, 16),
        ("ffv1", "yuv422p", False, 235, 16),
        ("ffv1", "yuv444p10le", False, 235, 16),
        ("ffv1", "bgr0", False, 235, 16),
        ("mjpeg", "yuvj420p", True, 255, 0),
        ("mjpeg", "yuvj444p", False, 235, 16),
        ("ffv1", "gray", True, 255, 0),
    ],
)
def test_every_pixel_format_becomes_yuv_420_and_says_its_range(
    tmp_path: Path, codec: str, pix_fmt: str, full_range: bool, white: int, black: int
) -> None:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, 32:] = 255
    path = write_media(
        tmp_path / "p.mkv",
        video_codec=codec,
        pix_fmt=pix_fmt,
        audio_codec=None,
        pixels=pixels,
        seconds=0.12,
    )
    frames = pictures(drain(MediaFileSource(path)))
    assert len(frames) == 3
    for frame in frames:
        assert frame.full_range is full_range
        assert abs(frame.y[:, 40:].astype(int) - white).max() <= 2
        assert abs(frame.y[:, :24].astype(int) - black).max() <= 2
        if pix_fmt == "gray":
            assert frame.u is None
            assert frame.v is None
        else:
            assert frame.u is not None
            assert frame.u.shape == (24, 32)


@pytest.mark.parametrize("turn", [90, 180, -90])
def test_pictures_are_turned_upright(tmp_path: Path, turn: int) -> None:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24, :32] = 255  # white top left
    path = write_media(
        tmp_path / "r.mp4", rotation=turn, audio_codec=None, pixels=pixels, seconds=0.2
    )
    with av.open(str(path)) as container:
        stated = next(container.decode(video=0)).rotation  # degrees counter-clockwise
    frame = pictures(drain(MediaFileSource(path)))[0]
    upright = np.rot90(pixels[:, :, 0], stated // 90)
    assert frame.y.shape == upright.shape
    assert abs(stated) == abs(turn)
    assert np.corrcoef(frame.y.ravel(), upright.ravel())[0, 1] > 0.95


def test_a_file_that_is_not_interleaved_is_read_with_a_bounded_look_ahead(tmp_path: Path) -> None:
    path = write_media(
        tmp_path / "n.mkv",
        size=(320, 240),
        seconds=8.0,
        audio_codec="pcm_s16le",
        interleaved=False,
    )
    tracemalloc.start()
    try:
        source = MediaFileSource(path)
        now_ns: int | None = 0
        bytes_seen = 0
        while now_ns is not None:
            step = source.step(now_ns)
            bytes_seen += sum(i.y.nbytes for _, i in step.items if isinstance(i, VideoFrame))
            now_ns = step.next_wake_ns
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    source.close()
    assert bytes_seen == 200 * 320 * 240
    assert peak < 3_000_000  # of 23 MB that the pictures have together


def test_a_file_without_sound_has_only_video(tmp_path: Path) -> None:
    path = write_media(tmp_path / "v.mp4", audio_codec=None, seconds=0.5)
    source = MediaFileSource(path)
    assert source.modalities == {Modality.VIDEO}
    assert {modality_of(item) for _, item in drain(source)} == {Modality.VIDEO}


def test_a_file_without_video_has_only_audio(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.wav", video_codec=None, audio_codec="pcm_s16le", seconds=0.5)
    source = MediaFileSource(path)
    assert source.modalities == {Modality.AUDIO}
    assert {modality_of(item) for _, item in drain(source)} == {Modality.AUDIO}


def test_one_modality_of_a_file_can_be_left_out() -> None:
    items = drain(MediaFileSource(GRID_CLIP, video=False))
    assert {modality_of(item) for _, item in items} == {Modality.AUDIO}


@pytest.mark.parametrize("wanted", [Modality.VIDEO, Modality.AUDIO])
def test_asking_for_what_the_file_lacks_is_an_error(tmp_path: Path, wanted: Modality) -> None:
    path = write_media(
        tmp_path / "m.mkv",
        seconds=0.5,
        video_codec=None if wanted is Modality.VIDEO else "mpeg4",
        audio_codec=None if wanted is Modality.AUDIO else "aac",
    )
    with pytest.raises(SourceError, match=rf"m\.mkv: there is no {wanted} in this file; give"):
        MediaFileSource(path, video=wanted is Modality.VIDEO, audio=wanted is Modality.AUDIO)
    with pytest.raises(SourceError, match=rf"no {wanted} in this file.*--{wanted} none"):
        MediaFileSource(path, require=frozenset({wanted}))


def test_a_cover_picture_is_not_video(tmp_path: Path) -> None:
    path = write_media(
        tmp_path / "song.mp4", video_codec="mjpeg", pix_fmt="yuvj420p", cover=True, times=[0.0]
    )
    assert MediaFileSource(path).modalities == {Modality.AUDIO}


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.mp4: there is no such file") as caught:
        MediaFileSource(tmp_path / "nothing.mp4")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.mp4", b"", "the file is empty"),
        ("noise.mp4", bytes(range(256)) * 50, "cannot be opened as media"),
        ("notes.txt", b"just some words\n" * 50, "this is text, not media"),
        (
            "words.srt",
            b"1\n00:00:00,000 --> 00:00:01,000\nhello\n\n2\n00:00:01,000 --> 00:00:02,000\nyou\n",
            "there is no video and no audio in this file",
        ),
    ],
)
def test_what_is_not_media_is_a_one_line_error(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError) as caught:
        MediaFileSource(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_path_through_a_file_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        MediaFileSource(GRID_CLIP / "inside.mp4")


def test_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="this is not a file"):
        MediaFileSource(tmp_path)


def test_an_mp4_that_was_cut_before_its_index_is_an_error(tmp_path: Path) -> None:
    path = truncate(write_media(tmp_path / "cut.mp4"), 0.6)
    with pytest.raises(SourceError, match=r"cut\.mp4: cannot be opened as media .* cut short"):
        MediaFileSource(path)


def test_a_file_in_which_nothing_can_be_decoded_is_an_error(tmp_path: Path) -> None:
    path = write_media(tmp_path / "d.mkv", audio_codec=None, video_codec="mjpeg",
                       pix_fmt="yuvj420p", times=[0.0])  # fmt: skip
    content = path.read_bytes()
    start = content.index(b"\xff\xd8\xff")
    path.write_bytes(content[:start] + bytes(400) + content[start + 400 :])
    with pytest.raises(SourceError, match="nothing in this file can be decoded"):
        MediaFileSource(path)


def test_a_name_with_a_colon_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_media(tmp_path / "http:clip.mkv", seconds=0.2)
    monkeypatch.chdir(tmp_path)
    assert MediaFileSource("http:clip.mkv").modalities == {Modality.VIDEO, Modality.AUDIO}


def test_a_playlist_on_disk_opens_no_connection(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        path = tmp_path / "list.m3u8"
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{url}\n#EXT-X-ENDLIST\n")
        with pytest.raises(SourceError):
            MediaFileSource(path)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_file_that_breaks_off_ends_both_modalities_and_says_where(
    tmp_path: Path, ending: str
) -> None:
    path = write_media(tmp_path / f"t.{ending}", seconds=4.0, faststart=ending == "mp4")
    items = drain(MediaFileSource(truncate(path, 0.6)))
    for modality, end in ends(items).items():
        assert end.error is not None
        assert f"t.{ending}: {modality} breaks off at " in end.error
        assert " s of 4.0" in end.error
        assert 1.5 * NS_PER_S < end.t_ns < 3 * NS_PER_S
    assert len(pictures(items)) > 35


def test_one_modality_can_break_off_while_the_other_goes_on(tmp_path: Path) -> None:
    # The sound lies behind the pictures, but for the very last one: the cut takes sound only.
    path = write_media(tmp_path / "t.mkv", seconds=4.0, interleaved=False, audio_codec="pcm_s16le")
    items = drain(MediaFileSource(truncate(path, 0.6)))
    assert len(pictures(items)) >= 99
    assert ends(items)[Modality.VIDEO].error is None
    assert "audio breaks off at" in (ends(items)[Modality.AUDIO].error or "")
    assert ends(items)[Modality.AUDIO].t_ns < 3 * NS_PER_S


def test_a_torn_last_packet_is_a_file_that_is_cut_short(tmp_path: Path) -> None:
    # FFmpeg takes the length of a WAV file from its size, so the cut does not show in it.
    path = write_media(tmp_path / "t.wav", video_codec=None, audio_codec="pcm_s16le")
    end = ends(drain(MediaFileSource(truncate(path, 0.501))))[Modality.AUDIO]
    assert end.error is not None
    assert end.error.endswith("the file is cut short")


def test_damage_in_the_middle_is_skipped_and_counted(tmp_path: Path) -> None:
    path = write_media(tmp_path / "d.mp4", seconds=4.0, faststart=True)
    source = MediaFileSource(damage(path, 0.5, 0.6))
    items = drain(source)
    assert source.decode_errors > 5
    assert set(source.drops.by_reason) <= {
        "corrupt video packet",
        "corrupt audio packet",
        "corrupt video frame",
    }
    assert [end.error for end in ends(items).values()] == [None, None]
    assert pictures(items)[-1].t_ns > 3.8 * NS_PER_S
    assert chunks(items)[-1].end_ns > 3.8 * NS_PER_S
    times = [frame.t_ns for frame in pictures(items)]
    assert times == sorted(times)


def test_recordings_joined_byte_by_byte_go_on_where_the_first_one_ends(tmp_path: Path) -> None:
    path = write_media(tmp_path / "j.ts", video_codec="libx264", seconds=1.6, audio_codec="mp2")
    path.write_bytes(path.read_bytes() * 2)  # timestamps start again in the middle
    source = MediaFileSource(path)
    items = drain(source)
    frames, sound = pictures(items), chunks(items)
    assert source.timestamp_repairs == 2  # one for each modality
    shown = [index_of(frame.y.mean()) for frame in frames]
    assert shown[:39] == list(range(39))
    assert shown[-40:] == list(range(40))  # at the join one may be lost
    gaps = [b.t_ns - a.t_ns for a, b in itertools.pairwise(frames)]
    assert max(gaps) < 100 * MS
    assert abs(frames[-1].t_ns - sound[-1].end_ns) < 200 * MS


@pytest.mark.parametrize("seed", range(12))
def test_no_damage_makes_a_source_raise_or_go_back(
    tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    ending, codec = [("mp4", "libx264"), ("mkv", "mpeg4"), ("ts", "libx264")][seed % 3]
    path = write_media(tmp_path / f"d.{ending}", seconds=2.0, video_codec=codec, faststart=True)
    start = 0.1 + 0.06 * seed
    damage(path, start, start + 0.08, seed=seed)
    with caplog.at_level(logging.ERROR):
        try:
            source = MediaFileSource(path)
        except SourceError:
            assert ending == "mp4"  # the damage hit its index
            return
        items = drain(source)
    for kind in (pictures(items), chunks(items)):
        assert [sample.sequence for sample in kind] == list(range(len(kind)))
        times = [sample.t_ns for sample in kind]
        assert times == sorted(times)
    assert set(ends(items)) == source.modalities
    assert not caplog.records


def test_close_may_be_called_twice_and_ends_the_source() -> None:
    source = MediaFileSource(GRID_CLIP)
    source.step(0)
    source.close()
    source.close()


def test_the_name_of_the_source_is_the_name_of_the_file_unless_given() -> None:
    assert {i.source for _, i in drain(MediaFileSource(GRID_CLIP))} == {"grid_clip.mp4"}
    assert {i.source for _, i in drain(MediaFileSource(GRID_CLIP, name="cam"))} == {"cam"}
