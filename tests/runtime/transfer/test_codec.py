"""Frames of the side channel: what is accepted, and that everything else is refused by name."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard_runtime.transfer import codec
from steelyard_runtime.transfer.codec import FrameError, Sealer, Unsealer
from steelyard_runtime.transfer.messages import Done, Open, Read, Renew, Request

CLIENT, SERVER = b"c" * codec.NONCE_BYTES, b"s" * codec.NONCE_BYTES
KEY = codec.derive_key("token", "client", CLIENT, SERVER)
NAMES = st.text(max_size=40)
COUNTS = st.integers(0, 1 << 17)
MESSAGES = st.one_of(
    st.builds(Open, NAMES, COUNTS, COUNTS),
    st.builds(Read, NAMES, NAMES, COUNTS, COUNTS),
    st.builds(Renew, st.lists(NAMES, max_size=5)),
    st.builds(Done, NAMES),
)


def unsealer(key: bytes = KEY) -> Unsealer[Request]:
    return Unsealer(key, msgspec.msgpack.Decoder(Request))


def unseal(reader: Unsealer[Request], frame: bytes) -> Request:
    header, rest = frame[: codec.HEADER.size], frame[codec.HEADER.size :]
    assert reader.rest_bytes(header) == len(rest)
    return reader.unseal(header, rest)


def sealed(body: bytes) -> bytes:
    """Return any bytes as the first frame of a peer that knows the key."""
    header = codec.HEADER.pack(len(body))
    return header + body + codec._mac(KEY, 0, header, body)


@given(st.lists(MESSAGES, max_size=4))
def test_messages_arrive_as_they_were_sent(messages) -> None:
    """A sequence of messages survives sealing and unsealing."""
    sealer, reader = Sealer(KEY), unsealer()
    assert [unseal(reader, sealer.seal(message)) for message in messages] == messages


@given(st.binary(max_size=300))
def test_any_body_of_a_peer_with_the_key_is_decoded_or_refused(body) -> None:
    """Authenticated garbage raises FrameError and nothing else."""
    try:
        unseal(unsealer(), sealed(body))
    except FrameError as error:
        assert error.reason == "decode"


@given(
    st.recursive(
        st.none() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
        st.lists,
        max_leaves=9,
    )
)
def test_wrong_shapes_of_a_peer_with_the_key_are_refused(value) -> None:
    """Well-formed msgpack that is no message of the protocol raises FrameError."""
    with pytest.raises(FrameError, match="cannot be decoded"):
        unseal(unsealer(), sealed(msgspec.msgpack.encode(value)))


def test_deep_nesting_is_refused() -> None:
    """A body that nests deeper than the decoder's stack raises FrameError."""
    with pytest.raises(FrameError, match="cannot be decoded"):
        unseal(unsealer(), sealed(b"\x91" * 100_000 + b"\xc0"))


@given(MESSAGES, st.data())
def test_one_changed_bit_is_noticed(message, data) -> None:
    """A frame with any bit of its body or MAC flipped is refused before it is decoded."""
    frame = bytearray(Sealer(KEY).seal(message))
    position = data.draw(st.integers(codec.HEADER.size, len(frame) - 1))
    frame[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(FrameError, match="MAC"):
        unseal(unsealer(), bytes(frame))


def test_a_replayed_frame_is_refused() -> None:
    """The same frame is accepted once."""
    frame, reader = Sealer(KEY).seal(Done("r")), unsealer()
    unseal(reader, frame)
    with pytest.raises(FrameError, match="MAC"):
        unseal(reader, frame)


def test_reordered_frames_are_refused() -> None:
    """The second frame is not accepted in the place of the first."""
    sealer = Sealer(KEY)
    sealer.seal(Done("first"))
    with pytest.raises(FrameError, match="MAC"):
        unseal(unsealer(), sealer.seal(Done("second")))


@pytest.mark.parametrize(
    ("token", "direction", "client", "server"),
    [
        ("other", "client", CLIENT, SERVER),
        ("token", "server", CLIENT, SERVER),
        ("token", "client", SERVER, SERVER),
        ("token", "client", CLIENT, CLIENT),
    ],
)
def test_keys_belong_to_one_token_direction_and_connection(
    token, direction, client, server
) -> None:
    """A frame of another token, direction or connection is refused."""
    frame = Sealer(codec.derive_key(token, direction, client, server)).seal(Done("r"))
    with pytest.raises(FrameError, match="MAC"):
        unseal(unsealer(), frame)


def test_a_long_frame_is_refused_by_its_header() -> None:
    """The size is checked before anything is allocated, more strictly for the first frame."""
    reader = unsealer()
    with pytest.raises(FrameError, match="at most"):
        reader.rest_bytes(codec.HEADER.pack(codec.MAX_FIRST_BODY_BYTES + 1))
    unseal(reader, Sealer(KEY).seal(Done("r")))
    reader.rest_bytes(codec.HEADER.pack(codec.MAX_BODY_BYTES))
    with pytest.raises(FrameError, match="at most"):
        reader.rest_bytes(codec.HEADER.pack(codec.MAX_BODY_BYTES + 1))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nUser-Agent", "preface"),
        (codec.PREFACE.pack(codec.MAGIC, 9, CLIENT), "version"),
    ],
)
def test_a_foreign_preface_is_refused(data, reason) -> None:
    """Another protocol or another version is named."""
    with pytest.raises(FrameError) as caught:
        codec.decode_preface(data[: codec.PREFACE.size].ljust(codec.PREFACE.size))
    assert caught.value.reason == reason
