"""The rules that some construct is allowed to break, with the reasons, from the metadata of a synthesised environment."""

import json
from dataclasses import dataclass
from pathlib import Path

_ENTRY = "aws:cdk:acknowledged-rules"


@dataclass(frozen=True, order=True)
class Waiver:
    """One rule that one construct is allowed to break."""

    rule: str
    construct: str
    reason: str


def waivers(assembly: Path) -> list[Waiver]:
    """The waivers in a cloud assembly (the folder that `cdk synth` writes), by rule and construct."""
    return sorted(
        Waiver(rule.partition("::")[2], construct.strip("/"), reason)
        for file in assembly.glob("*.metadata.json")
        for construct, entries in json.loads(file.read_text(encoding="utf-8")).items()
        for entry in entries
        if entry["type"] == _ENTRY
        for rule, reason in entry["data"].items()
    )


def table(found: list[Waiver]) -> str:
    """The waivers as Markdown: constructs with the same rule and reason share a line."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for waiver in found:
        grouped.setdefault((waiver.rule, waiver.reason), []).append(waiver.construct)
    lines = ["| rule | constructs | why it may be broken there |", "|---|---|---|"]
    for (rule, reason), constructs in grouped.items():
        lines.append(f"| {rule.replace('|', '&#124;')} | {'<br>'.join(constructs)} | {reason} |")
    return "\n".join(lines)
