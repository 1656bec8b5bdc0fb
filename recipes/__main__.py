"""`python -m recipes`: reproduction of the paper, in the project's folder."""

from __future__ import annotations

import sys
from typing import Final

from ctsr_lightning.cli import describe_commands, report_errors, run_command

RECIPES: Final = {
    "demo": "recipes.demo:demo",
    "nano": "recipes.nano.run:nano",
    "claims": "recipes.claims.run:claims",
    "tables": "recipes.tables.run:tables",
    "methods": "recipes.methods.run:methods",
    "lowlight": "recipes.lowlight:lowlight",
    "results": "recipes.results:results",
    "screenshots": "recipes.screenshots:screenshots",
}
"""Recipes, and where the function of each lives."""


def main(args: list[str] | None = None) -> None:
    """Run a recipe.

    Args:
        args: The words after `python -m recipes`; None takes them from the command line.
    """
    argv = sys.argv[1:] if args is None else list(args)
    report_errors(lambda: _run(argv))


def _run(argv: list[str]) -> None:
    if argv and argv[0] in RECIPES:
        run_command(RECIPES[argv[0]], argv[1:], f"python -m recipes {argv[0]}")
        return
    usage = ["usage: python -m recipes RECIPE [OPTIONS]        python -m recipes RECIPE --help lists the options", ""]
    text = "\n".join([*usage, "Reproduction of the paper:", *describe_commands(RECIPES)])
    if argv and argv[0] not in {"-h", "--help"}:
        print(f"'{argv[0]}' is not a recipe. Expected one of {', '.join(RECIPES)}.\n\n{text}", file=sys.stderr)
        raise SystemExit(2)
    print(text)


if __name__ == "__main__":
    main()
