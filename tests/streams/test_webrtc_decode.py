"""Decoders of live media, and where key frames are seen to begin."""

from __future__ import annotations

import numpy as np
import pytest

from counterpoint.streams.webrtc.decode import (
    AudioDecoder,
    DecodeError,
    PictureLimits,
    PictureRefusedError,
    VideoDecoder,
)
from counterpoint.streams.webrtc.payloads import begins_key_frame
from tests.support.webrtc_media import encoded_pictures, h264_packets, vp8_packet

LIMITS = PictureLimits(width=640, height=640, pixels=640 * 480)


@pytest.mark.parametrize("codec", ["VP8", "H264"])
def test_each_frame_gives_its_picture_at_once(codec: str) -> None:
    decoder = VideoDecoder(codec, LIMITS)
    for number, data in enumerate(encoded_pictures(codec, 20)):
        picture = decoder.decode(data, key=number == 0)
        assert picture is not None
        assert picture.y.shape == (48, 64)
        assert abs(int(picture.y.mean()) - (16 + 4 * number)) <= 2
        assert picture.u is not None
        assert picture.u.shape == (24, 32)
        assert picture.y.strides[1] == 1  # of the frame's own memory, whose rows may be longer
        assert not picture.full_range


def test_odd_sizes_have_the_chroma_of_the_next_even_one() -> None:
    (data,) = encoded_pictures("VP8", 1, width=61, height=47)
    picture = VideoDecoder("VP8", LIMITS).decode(data, key=True)
    assert picture is not None
    assert picture.y.shape == (47, 61)
    assert picture.v is not None
    assert picture.v.shape == (24, 31)


@pytest.mark.parametrize("codec", ["VP8", "H264"])
@pytest.mark.parametrize(("width", "height"), [(656, 48), (48, 656), (640, 496)])
def test_a_picture_larger_than_allowed_is_refused(codec: str, width: int, height: int) -> None:
    (data,) = encoded_pictures(codec, 1, width=width, height=height)
    with pytest.raises(PictureRefusedError, match="too large"):
        VideoDecoder(codec, LIMITS).decode(data, key=True)


@pytest.mark.parametrize("codec", ["VP8", "H264"])
def test_noise_is_no_picture(codec: str) -> None:
    decoder = VideoDecoder(codec, LIMITS)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(50):
        try:
            decoder.decode(rng.bytes(200), key=False)
        except (DecodeError, PictureRefusedError):
            refused += 1
    assert refused == 50
    (data,) = encoded_pictures(codec, 1)
    assert decoder.decode(data, key=True) is not None  # and it goes on


def test_noise_is_no_opus() -> None:
    with pytest.raises(DecodeError):
        AudioDecoder("OPUS").decode(b"\xff\xff\xff")


@pytest.mark.parametrize(
    ("codec", "rate_hz", "count"),
    [("PCMU", 8_000, 160), ("PCMA", 8_000, 160), ("G722", 16_000, 320)],
)
def test_telephone_codecs_are_mono_at_their_own_rate(codec: str, rate_hz: int, count: int) -> None:
    decoder = AudioDecoder(codec)
    samples = decoder.decode(b"\x55" * 160)
    assert decoder.rate_hz == rate_hz
    assert samples.shape == (count,)
    assert samples.dtype == np.float32
    assert abs(samples).max() <= 1.0


def test_key_frames_begin_where_encoders_say_so() -> None:
    pictures = encoded_pictures("VP8", 3, keys=(0, 2))
    packets = [vp8_packet(data, number) for number, data in enumerate(pictures)]
    assert [begins_key_frame(p.codec, p.payload, p.data) for p in packets] == [True, False, True]
    for number, data in enumerate(encoded_pictures("H264", 3, keys=(0, 2))):
        keys = [begins_key_frame(p.codec, p.payload, p.data) for p in h264_packets(data, number)]
        assert any(keys) == (number in (0, 2))


@pytest.mark.parametrize(
    ("codec", "payload", "key"),
    [
        ("VP8", b"\x10\x00", True),
        ("vp8", b"\x10\x00", True),
        ("VP8", b"\x10\x01", False),  # an interframe
        ("VP8", b"\x00\x00", False),  # not the start of a partition
        ("VP8", b"\x11\x00", False),  # of the second partition
        ("VP8", b"", False),
        ("H264", b"\x67\x42", True),  # SPS
        ("H264", b"\x65\x88", True),  # IDR
        ("H264", b"\x61\x88", False),
        ("H264", b"\x7c\x85", True),  # FU-A: the first fragment of an IDR
        ("H264", b"\x7c\x05", False),  # a later one
        ("H264", b"\x7c\x81", False),
        ("H264", b"\x78\x00\x01\x09\x00\x02\x67\x42", True),  # STAP-A: a delimiter and an SPS
        ("H264", b"\x78\x00\x01\x09\x00\x02\x61\x42", False),
        ("H264", b"\x78\x00", False),
        ("H264", b"\x78\xff\xff\x09", False),
        ("AV1", b"\x10\x00", False),
    ],
)
def test_key_frames_begin_where_payloads_say_so(codec: str, payload: bytes, key: bool) -> None:
    assert begins_key_frame(codec, payload, payload[1:]) is key
