"""Where key frames begin, as payloads say: VP8 (RFC 7741) and H.264 (RFC 6184)."""

from __future__ import annotations

_H264_IDR, _H264_SPS, _H264_STAP_A, _H264_FU_A = 5, 7, 24, 28


def begins_key_frame(codec: str, payload: bytes, data: bytes) -> bool:
    """Whether a key frame begins with this packet.

    Args:
        codec: ``VP8`` or ``H264``, in any case.
        payload: of the RTP packet.
        data: the same without its payload descriptor.
    """
    match codec.upper():
        case "VP8":
            return _vp8(payload, data)
        case "H264":
            return _h264(payload)
        case _:
            return False


def _vp8(payload: bytes, data: bytes) -> bool:
    # The start of a partition (S), the first one (PID 0); and bit 0 of the frame itself.
    return bool(payload and data and payload[0] & 0x10 and not payload[0] & 0x07 | data[0] & 0x01)


def _h264(payload: bytes) -> bool:
    if len(payload) < 2:
        return False
    kind = payload[0] & 0x1F
    if kind == _H264_FU_A:
        return bool(payload[1] & 0x80) and payload[1] & 0x1F == _H264_IDR
    if kind != _H264_STAP_A:
        return kind in (_H264_IDR, _H264_SPS)
    at = 1
    while at + 3 <= len(payload):
        if payload[at + 2] & 0x1F in (_H264_IDR, _H264_SPS):
            return True
        at += 2 + int.from_bytes(payload[at : at + 2], "big")
    return False
