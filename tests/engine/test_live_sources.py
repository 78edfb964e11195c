"""What a person writes becomes live sources; recordings among them play from the start."""

from __future__ import annotations

import asyncio

import pytest

from counterpoint.engine.live_sources import any_live, kind_of, open_live
from counterpoint.engine.sources import OpenSources
from counterpoint.streams.errors import UsageError
from counterpoint.streams.feed import MailboxFeed
from counterpoint.streams.lineup import Lineup
from counterpoint.streams.mailbox import Mailbox
from counterpoint.streams.types import (
    AudioChunk,
    ChatLine,
    Item,
    Modality,
    SourceEnded,
    VideoFrame,
)
from tests.support.sessions import GRID_CHAT, GRID_CLIP
from tests.support.virtual import VirtualRuntime


def opened(runtime: VirtualRuntime, **given: str) -> OpenSources:
    wanted = {"video": "none", "audio": "none", "chat": "none", **given}
    return open_live("s", **wanted, runtime=runtime, redis_url="redis://x", profile="general")


def test_each_kind_is_known_for_its_modality() -> None:
    assert kind_of(Modality.VIDEO, "webcam:0") == "webcam"
    assert kind_of(Modality.AUDIO, "mic:default") == "mic"
    assert kind_of(Modality.CHAT, "ircs://irc.example/channel") == "ircs"
    assert kind_of(Modality.VIDEO, "rtsp://camera/1") == "rtsp"
    assert kind_of(Modality.CHAT, "") == "none"
    assert any_live(video="file:a.mp4", audio="none", chat="redis:")
    assert not any_live(video="file:a.mp4", audio="none", chat="file:c.jsonl")


@pytest.mark.parametrize(
    ("modality", "text"),
    [
        (Modality.VIDEO, "mic:0"),
        (Modality.AUDIO, "webcam:0"),
        (Modality.CHAT, "http://x"),
        (Modality.VIDEO, "clip.mp4"),
        (Modality.VIDEO, "file:"),
    ],
)
def test_any_other_is_told_what_it_takes(modality: Modality, text: str) -> None:
    with pytest.raises(UsageError, match=rf"--{modality} {text}: takes .*none"):
        kind_of(modality, text)


def test_the_sources_have_their_slots_and_names() -> None:
    async def check() -> list[str]:
        sources = opened(
            VirtualRuntime(), video="webcam:3", audio="mic:default", chat="irc://irc.example/room"
        )
        assert sources.names == {
            Modality.VIDEO: "camera",
            Modality.AUDIO: "microphone",
            Modality.CHAT: "chat",
        }
        assert isinstance(sources.source, Lineup)
        with pytest.raises(TypeError, match="is live"):
            _ = sources.recording
        return [seat.source.name for seat in sources.source.seats]

    assert asyncio.run(check())[:2] == ["webcam:3", "mic:default"]


def test_one_address_for_picture_and_sound_is_one_connection() -> None:
    async def check() -> int:
        sources = opened(VirtualRuntime(), video="rtsp://camera/1", audio="rtsp://camera/1")
        assert isinstance(sources.source, Lineup)
        return len(sources.source.seats)

    assert asyncio.run(check()) == 1


def test_a_camera_has_a_number() -> None:
    with pytest.raises(UsageError, match="a camera has a number"):
        opened(VirtualRuntime(), video="webcam:front")


def test_recordings_in_a_live_session_play_in_real_time_and_end_it() -> None:
    runtime = VirtualRuntime()
    mailbox = Mailbox(dict.fromkeys(Modality, 10_000))

    async def session() -> list[tuple[int, Item]]:
        clip = f"file:{GRID_CLIP}"
        sources = opened(runtime, video=clip, audio=clip, chat=f"file:{GRID_CHAT}")
        assert isinstance(sources.source, Lineup)
        await sources.source.run(MailboxFeed(mailbox, runtime, runtime.now_ns()))
        return mailbox.get_nowait()

    items = runtime.run(session())
    for kind in (VideoFrame, AudioChunk, ChatLine):
        stamped = [(arrived, item) for arrived, item in items if isinstance(item, kind)]
        assert stamped
        assert all(arrived >= item.t_ns for arrived, item in stamped)
    ended = [item for _, item in items if isinstance(item, SourceEnded)]
    assert {item.modality for item in ended} == set(Modality)
    assert not [item for item in ended if item.error]
