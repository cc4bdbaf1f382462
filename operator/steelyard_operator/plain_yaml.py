"""YAML as people read it: nothing is an anchor, and texts of several lines are blocks."""

from typing import Any

import yaml


class PlainDumper(yaml.SafeDumper):
    """For `yaml.dump_all(..., Dumper=PlainDumper)`; kubectl need not know anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        """Whether a part that occurs twice is written twice: always."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


PlainDumper.add_representer(str, _text)
