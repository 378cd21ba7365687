"""Help as plain text, its options grouped by what they are for, the most used first."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup


class HelpfulCommand(TyperCommand):
    """A command that prints its options under the headings that their `rich_help_panel` names."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [param.metavar for param in self.get_params(ctx) if param.param_type_name == "argument"]
        return ["[OPTIONS]", *(str(metavar) for metavar in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and param.param_type_name == "option":
                heading = getattr(param, "rich_help_panel", None) or "Other"
                sections.setdefault(heading, []).append(_plain(record))
        for heading, records in sections.items():
            with formatter.section(heading if len(sections) > 1 else "Options"):
                formatter.write_dl(records)


class HelpfulGroup(TyperGroup):
    """The program, whose help names the commands before the options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        self.format_commands(ctx, formatter)
        records = [param.get_help_record(ctx) for param in self.get_params(ctx)]
        with formatter.section("Options"):
            formatter.write_dl([_plain(record) for record in records if record is not None])


def _plain(record: tuple[str, str]) -> tuple[str, str]:
    """A name and its text without the signs by which some versions of Typer keep Rich from reading brackets."""
    return record[0], record[1].replace("\\[", "[")
