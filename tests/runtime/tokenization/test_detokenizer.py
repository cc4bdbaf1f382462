"""Text made token by token equals text made at once, and characters are never split."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard_runtime.tokenization.detokenizer import Detokenizer
from steelyard_runtime.tokenization.output_text import OutputText
from steelyard_runtime.tokenization.tokenizer import Tokenizer

END, CALL, UNKNOWN = 261, 262, 100_000
EURO = [0xE2, 0x82, 0xAC]  # ids 0-255 are bytes

any_ids = st.lists(st.integers(0, 263), max_size=40)
# Ids as texts have them, and as no text has them.
ids = st.one_of(
    any_ids,
    st.text(max_size=12).map(lambda text: list(text.encode())),
    st.tuples(any_ids, st.text(max_size=5)).map(lambda pair: [*pair[0], *pair[1].encode()]),
)


@given(ids=ids, skip=st.booleans())
def test_pieces_join_to_the_whole_text(
    ids: list[int], skip: bool, byte_tokenizer: Tokenizer
) -> None:
    """The pieces and the rest are what decoding all ids at once gives."""
    detokenizer = Detokenizer(byte_tokenizer, skip_special_tokens=skip)
    pieces = [detokenizer.push(token_id) for token_id in ids]
    whole = byte_tokenizer.decode(ids, skip_special_tokens=skip)
    assert "".join(pieces) + detokenizer.finish() == whole


@given(text=st.text(max_size=30))
def test_no_character_is_split(text: str, byte_tokenizer: Tokenizer) -> None:
    """Of a valid text no piece has a replacement character that the text does not have."""
    detokenizer = Detokenizer(byte_tokenizer)
    pieces = [detokenizer.push(token_id) for token_id in byte_tokenizer.encode(text)]
    assert "".join(pieces) == text
    assert detokenizer.finish() == ""


@given(ids=ids, data=st.data(), skip=st.booleans())
def test_it_goes_on_where_another_stopped(
    ids: list[int], skip: bool, data: st.DataObject, byte_tokenizer: Tokenizer
) -> None:
    """Built from ids that were sent, it gives exactly the text that is still missing."""
    cut = data.draw(st.integers(0, len(ids)))
    first = Detokenizer(byte_tokenizer, skip_special_tokens=skip)
    sent = "".join(first.push(token_id) for token_id in ids[:cut])
    second = Detokenizer(byte_tokenizer, skip_special_tokens=skip, resumed=ids[:cut])
    rest = "".join(second.push(token_id) for token_id in ids[cut:]) + second.finish()
    assert sent + rest == byte_tokenizer.decode(ids, skip_special_tokens=skip)


def test_a_character_comes_with_its_last_byte(byte_tokenizer: Tokenizer) -> None:
    """Nothing is given before a character is complete."""
    detokenizer = Detokenizer(byte_tokenizer)
    assert [detokenizer.push(token_id) for token_id in EURO] == ["", "", "€"]


def test_an_incomplete_character_at_the_end_is_replaced(byte_tokenizer: Tokenizer) -> None:
    """What stays incomplete becomes one U+FFFD, once."""
    detokenizer = Detokenizer(byte_tokenizer)
    assert [detokenizer.push(token_id) for token_id in EURO[:2]] == ["", ""]
    assert (detokenizer.finish(), detokenizer.finish()) == ("\ufffd", "")


@pytest.mark.parametrize(("skip", "expected"), [(True, "a<|call|>"), (False, "a<|end|><|call|>")])
def test_special_tokens_are_text_only_where_asked(
    skip: bool, expected: str, byte_tokenizer: Tokenizer
) -> None:
    """Special tokens are left out unless they are asked for; other added tokens never are."""
    detokenizer = Detokenizer(byte_tokenizer, skip_special_tokens=skip)
    assert "".join(detokenizer.push(i) for i in [ord("a"), END, CALL]) == expected


def test_an_unknown_id_is_no_text(byte_tokenizer: Tokenizer) -> None:
    """Models may have more rows than the tokenizer has tokens."""
    assert Detokenizer(byte_tokenizer).push(UNKNOWN) == ""


@pytest.mark.parametrize(
    ("token_id", "data", "text"),
    [(0xE2, b"\xe2", "\ufffd"), (258, b"the", "the"), (END, b"<|end|>", "<|end|>")],
)
def test_a_token_alone(token_id: int, data: bytes, text: str, byte_tokenizer: Tokenizer) -> None:
    """For logprobs each token has its bytes, and a text even where they are no character."""
    assert byte_tokenizer.token_bytes(token_id) == data
    assert byte_tokenizer.token_text(token_id) == text


stops = st.lists(st.sampled_from(["a", "ab", "ba", "abc", "€", "bb", "c€", "aab"]), max_size=3)
letters_and_euros = st.lists(st.sampled_from("abc€"), max_size=20).map("".join)


def reference(text: str, stop: list[str], include: bool) -> tuple[str, str | None]:
    """Return the text up to the stop string that ends first, found character by character."""
    for end in range(1, len(text) + 1):
        matches = [s for s in stop if text[:end].endswith(s)]
        if matches:
            longest = max(matches, key=len)
            return text[: end if include else end - len(longest)], longest
    return text, None


@given(text=letters_and_euros, stop=stops, include=st.booleans(), data=st.data())
@settings(max_examples=200)
def test_stop_strings_across_tokens(
    text: str, stop: list[str], include: bool, data: st.DataObject, byte_tokenizer: Tokenizer
) -> None:
    """However tokens are grouped, text ends at the stop string that is complete first."""
    token_ids = list(text.encode())
    output = OutputText(byte_tokenizer, stop=stop, include_stop_str_in_output=include)
    shown, read = "", 0
    while read < len(token_ids) and output.stopped is None:
        count = data.draw(st.integers(1, len(token_ids) - read))
        delta = output.push(token_ids[read : read + count], final=read + count == len(token_ids))
        shown += delta.text
        read += count
    assert (shown, output.stopped) == reference(text, stop, include)


@given(text=letters_and_euros, stop=stops, data=st.data())
def test_stop_strings_after_a_resume(
    text: str, stop: list[str], data: st.DataObject, byte_tokenizer: Tokenizer
) -> None:
    """Rebuilt from the ids that were sent, it shows the rest of the same text."""
    token_ids = list(text.encode())
    cut = data.draw(st.integers(0, len(token_ids)))
    first = OutputText(byte_tokenizer, stop=stop)
    shown = first.push(token_ids[:cut]).text
    second = OutputText(byte_tokenizer, stop=stop, resumed=token_ids[:cut])
    assert second.stopped == first.stopped
    shown += second.push(token_ids[cut:], final=True).text
    assert (shown, second.stopped) == reference(text, stop, include=False)


def test_tokens_after_a_stop_string_are_not_read(byte_tokenizer: Tokenizer) -> None:
    """The delta says how many tokens belong to the text, and later pushes bring nothing."""
    output = OutputText(byte_tokenizer, stop=["b"])
    delta = output.push([ord(c) for c in "abcd"])
    assert (delta.text, delta.num_tokens, delta.stop) == ("a", 2, "b")
    later = output.push([ord("e")], final=True)
    assert (later.text, later.num_tokens, later.stop) == ("", 0, "b")


def test_a_possible_stop_string_is_held_back(byte_tokenizer: Tokenizer) -> None:
    """Text that may begin a stop string waits, and comes when it turns out not to be one."""
    output = OutputText(byte_tokenizer, stop=["abc"])
    assert [output.push([ord(c)]).text for c in "xabab"] == ["x", "", "", "ab", ""]
    assert output.push([], final=True).text == "ab"


def test_min_tokens_come_before_any_stop(byte_tokenizer: Tokenizer) -> None:
    """Stop strings in the first `min_tokens` tokens do not count."""
    output = OutputText(byte_tokenizer, stop=["a"], min_tokens=2)
    delta = output.push([ord(c) for c in "aaba"])
    assert (delta.text, delta.num_tokens) == ("aab", 4)
