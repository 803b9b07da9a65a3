import pytest

from codesign.worker.frames import Decoder, Frame, FrameError, encode


def _bytes(header, blobs=()):
    return b"".join(bytes(piece) for piece in encode(header, blobs))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_frame_survives_any_chopping(size):
    data = _bytes({"op": "x", "n": [1, 2.5, None]}, [b"", b"abc" * 100, memoryview(b"\0\xff")])
    decoder = Decoder()
    frames = [decoder.feed(data[i : i + size]) for i in range(0, len(data), size)]
    assert frames[-1] == Frame({"op": "x", "n": [1, 2.5, None]}, (b"", b"abc" * 100, b"\0\xff"))
    assert frames[:-1] == [None] * (len(frames) - 1)


def test_needed_never_asks_for_more_than_the_frame():
    data, decoder, at = _bytes({"a": 1}, [b"x" * 50]), Decoder(), 0
    while decoder.needed():
        count = decoder.needed()
        decoder.feed(data[at : at + count])
        at += count
        if at == len(data):
            break
    assert at == len(data)


def test_two_frames_one_after_the_other():
    data = _bytes({"n": 1}, [b"a"]) + _bytes({"n": 2}, [b"b"])
    decoder = Decoder()
    assert decoder.feed(data) == Frame({"n": 1}, (b"a",))
    assert decoder.feed(b"") == Frame({"n": 2}, (b"b",))


@pytest.mark.parametrize(
    "data",
    [
        b"Traceback (most recent call last):",
        b"C",  # could become a frame: see below
        b"CdW1\xff\xff\xff\xff",
        b"CdW1\x02\x00\x00\x00[]",
        b"CdW1\x04\x00\x00\x00{]}x",
        b'CdW1\x1c\x00\x00\x00{"header": {}, "blobs": [-1]}'[: 8 + 28],
    ],
)
def test_anything_else_is_refused(data):
    decoder = Decoder()
    if data == b"C":
        assert decoder.feed(data) is None
        data = b"rash"
    with pytest.raises(FrameError):
        decoder.feed(data)
