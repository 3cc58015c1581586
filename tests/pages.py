"""The pages of docs/, whose commands some tests follow to the letter."""

from tiny_run import ROOT


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def commands(text: str) -> list[str]:
    """Lines of all blocks of code that name no language: those that do hold files."""
    return [
        line
        for block in text.split("```")[1::2]
        if block.startswith("\n")
        for line in block.strip().splitlines()
    ]
