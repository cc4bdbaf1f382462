"""Finds tags in growing text, with what may belong to a tag held back."""


def split_at_tag(text: str, tag: str) -> tuple[str, str | None, str]:
    """Return (text before the tag, the white space before it, text after the tag).

    Without a tag: (text that is certainly before any tag, None, text to hold back), the latter
    being white space and a possible beginning of the tag.
    """
    at = text.find(tag)
    if at >= 0:
        before = text[:at].rstrip()
        return before, text[len(before) : at], text[at + len(tag) :]
    keep = next(
        (
            length
            for length in range(min(len(tag) - 1, len(text)), 0, -1)
            if text.endswith(tag[:length])
        ),
        0,
    )
    certain = text[: len(text) - keep].rstrip()
    return certain, None, text[len(certain) :]
