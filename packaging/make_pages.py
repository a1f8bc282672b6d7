"""Writes the manual pages and the shell completions, of which flags and words stand in the programs and nowhere else.

``python packaging/make_pages.py`` writes everything below ``packaging/share``, which is laid out as it is installed;
``make pages`` calls it. The texts of the pages are in ``packaging/pages``; the line of a comment, FLAGS, in one is
replaced by the flags of its program. What is written is in the tree, so that whoever builds a package needs no fastbean
that runs already; ``tests/unit/test_pages.py`` holds it equal to what this writes.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fastbean import __version__, config
from fastbean.benchmark import tool
from fastbean.benchmark.scenarios import SCENARIOS

HERE = Path(__file__).parent
FLAGS_MARK = '.\\" FLAGS\n'
VERSION_MARK = "@VERSION@"
DIRECTORY, USER = "directory", "user"


class Flag(NamedTuple):
    """One flag: its names with their dashes, the name of its value or "", what it does, and how to complete a value.

    ``values``: DIRECTORY, USER, the values themselves with blanks between, or "" where nothing can be offered.
    """

    names: tuple[str, ...]
    metavar: str
    words: str
    values: str


def server_flags() -> list[Flag]:
    """The flags of ``fastbean``."""
    found = []
    for option in config.OPTIONS:
        names = [f"-{option.short}"] if option.short else []
        names += [f"--{option.long}"] if option.long else []
        found.append(_flag(names, option.metavar, " ".join(option.words)))
    return found


def benchmark_flags() -> list[Flag]:
    """The flags of ``fastbean-benchmark``."""
    actions = [action for action in tool._parser()._actions if action.option_strings]
    return [_flag(each.option_strings, str(each.metavar or ""), _plain(each)) for each in actions]


def _plain(action: argparse.Action) -> str:
    return (action.help or "").replace("show program's version number and exit", "show the version")


def _flag(names: "list[str] | tuple[str, ...]", metavar: str, words: str) -> Flag:
    values = {
        "DIR": DIRECTORY,
        "USER": USER,
        "NAMES": f"{' '.join(SCENARIOS)} all",
        "FORMAT": "text json",
        "LEVEL": "debug info warning error",
    }
    return Flag(tuple(names), metavar, words, values.get(metavar, ""))


def man_flags(flags: list[Flag]) -> str:
    """The flags as tagged paragraphs of a manual page."""
    lines = []
    for flag in flags:
        names = ", ".join(f"\\fB{_roff(name)}\\fR" for name in flag.names)
        value = f" \\fI{flag.metavar}\\fR" if flag.metavar else ""
        lines += [".TP", names + value, _roff(flag.words[0].upper() + flag.words[1:]) + "."]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")


def bash(program: str, flags: list[Flag]) -> str:
    """The completion for bash."""
    function = "_" + program.replace("-", "_")
    by_values: dict[str, list[str]] = {}
    for flag in flags:
        if flag.metavar:
            by_values.setdefault(flag.values, []).extend(flag.names)
    cases = []
    for values, spellings in by_values.items():
        offer = {
            DIRECTORY: '\n        compopt -o filenames 2>/dev/null\n        COMPREPLY=($(compgen -d -- "$cur"))',
            USER: '\n        COMPREPLY=($(compgen -u -- "$cur"))',
            "": "",
        }.get(values, f"\n        COMPREPLY=($(compgen -W '{_lines(values)}' -- \"$cur\"))")
        cases.append(f"    {' | '.join(spellings)}){offer}\n        return\n        ;;")
    names = _lines(" ".join(name for flag in flags for name in flag.names))
    return f"""# Completion of {program} for bash; written by packaging/make_pages.py.
{function}() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} IFS=$'\\n'
    COMPREPLY=()
    if [ "$cur" = = ]; then # --flag= and --flag=value come in pieces
        cur=
    elif [ "$prev" = = ]; then
        prev=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    case $prev in
{chr(10).join(cases)}
    esac
    case $cur in
    -*) COMPREPLY=($(compgen -W '{names}' -- "$cur")) ;;
    esac
}}
complete -F {function} {program}
"""


def _lines(words: str) -> str:
    return words.replace(" ", "\n")


def zsh(program: str, flags: list[Flag]) -> str:
    """The completion for zsh."""
    lines = []
    for flag in flags:
        names = [f"{name}{'=' if name.startswith('--') else '+'}" if flag.metavar else name for name in flag.names]
        spelled = "{" + ",".join(names) + "}" if len(names) > 1 else names[0]
        words = flag.words.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace("'", "'\\''")
        offer = {DIRECTORY: "_directories", USER: "_users", "": ""}.get(flag.values, f"({flag.values})")
        value = f":{flag.metavar}:{offer}" if flag.metavar else ""
        lines.append(f"    '*'{spelled}'[{words}]{value}'")
    head = f"#compdef {program}\n# Completion of {program} for zsh; written by packaging/make_pages.py.\n"
    return head + " \\\n".join(["_arguments -s", *lines]) + "\n"


def fish(program: str, flags: list[Flag]) -> str:
    """The completion for fish."""
    lines = [f"# Completion of {program} for fish; written by packaging/make_pages.py.", f"complete -c {program} -f"]
    for flag in flags:
        words = flag.words.replace("\\", "\\\\").replace("'", "\\'")
        names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names)
        offer = {DIRECTORY: " -a '(__fish_complete_directories)'", USER: " -a '(__fish_complete_users)'", "": ""}.get(
            flag.values, f" -a '{flag.values}'"
        )
        lines.append(f"complete -c {program} {names}{' -x' if flag.metavar else ''}{offer} -d '{words}'")
    return "\n".join(lines) + "\n"


def pages() -> Iterator[tuple[str, str]]:
    """Every file: its path below ``share``, and its text."""
    programs = {"fastbean": server_flags(), "fastbean-benchmark": benchmark_flags()}
    for source in sorted((HERE / "pages").glob("*.1")):
        text = source.read_text().replace(VERSION_MARK, __version__)
        yield f"man/man1/{source.name}", text.replace(FLAGS_MARK, man_flags(programs.get(source.stem, [])))
    for program, flags in programs.items():
        yield f"bash-completion/completions/{program}", bash(program, flags)
        yield f"zsh/site-functions/_{program}", zsh(program, flags)
        yield f"fish/vendor_completions.d/{program}.fish", fish(program, flags)


def main() -> None:
    """Writes all files."""
    for path, text in pages():
        target = HERE / "share" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


if __name__ == "__main__":
    main()
