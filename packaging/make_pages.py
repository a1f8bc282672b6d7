"""Writes the pages whose flags, words and keys are in the programs and nowhere else.

``python packaging/make_pages.py`` writes the manual pages and the shell completions below ``packaging/share``, which is
laid out as it is installed, ``docs/statistics.md`` and ``docs/commands.md``; ``make pages`` calls it. The texts of the
pages are in ``packaging/pages``. Comments in them are replaced: FLAGS by the flags of the program, TOOLS by its tools,
and STATISTICS by a table of statistics, and COMMANDS by that of commands. What is written is in the tree, so that
packaging needs no fastbean that runs already; ``tests/unit/test_pages.py`` holds it equal to what this writes.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fastbean import __version__
from fastbean.benchmark import tool
from fastbean.benchmark.scenarios import SCENARIOS
from fastbean.binlog.tool import COMMANDS
from fastbean.daemon.command_line import OPTIONS, Choice
from fastbean.daemon.tools import TOOLS
from fastbean.engine import command_table
from fastbean.engine.statistics_tables import tables
from fastbean.replication.tool import COMMANDS as CLUSTER_COMMANDS

HERE = Path(__file__).parent
STATISTICS_PAGE = HERE.parent / "docs" / "statistics.md"
COMMANDS_PAGE = HERE.parent / "docs" / "commands.md"
COMMANDS_MARK = "<!-- COMMANDS -->\n"
# The words of beanstalkd's documentation for arguments whose names here have a unit, or are longer.
ARGUMENT_WORDS = {
    "delay_s": "delay",
    "ttr_s": "ttr",
    "timeout_s": "seconds",
    "body_bytes": "bytes",
    "name": "tube",
    "count": "bound",
}
FLAGS_MARK = '.\\" FLAGS\n'
TOOLS_MARK = '.\\" TOOLS\n'
STATISTICS_MARK = "<!-- STATISTICS of a {} -->\n"
VERSION_MARK = "@VERSION@"
DIRECTORY, USER, FILE = "directory", "user", "file"


class Flag(NamedTuple):
    """One flag: its names with their dashes, the name of its value or "", what it does, and how to complete a value.

    ``values``: DIRECTORY, USER, FILE, the values themselves with blanks between, or "" where nothing can be offered.
    """

    names: tuple[str, ...]
    metavar: str
    words: str
    values: str


def server_flags() -> list[Flag]:
    """The flags of ``fastbean``."""
    found = []
    for option in OPTIONS:
        choices = " ".join(option.kind.words) if isinstance(option.kind, Choice) else ""
        found.append(_flag(option.names, option.metavar, option.help, choices))
    return found


def benchmark_flags() -> list[Flag]:
    """The flags of ``fastbean benchmark``."""
    actions = [action for action in tool._parser()._actions if action.option_strings]
    return [_flag(each.option_strings, str(each.metavar or ""), _plain(each)) for each in actions]


def _plain(action: argparse.Action) -> str:
    return (action.help or "").replace("show program's version number and exit", "show the version")


def _flag(names: "Sequence[str]", metavar: str, words: str, choices: str = "") -> Flag:
    values = {"DIR": DIRECTORY, "USER": USER, "FILE": FILE, "NAMES": f"{' '.join(SCENARIOS)} all"}
    return Flag(tuple(names), metavar, words, choices or values.get(metavar, ""))


def man_flags(flags: list[Flag]) -> str:
    """The flags as tagged paragraphs of a manual page."""
    lines = []
    for flag in flags:
        names = ", ".join(f"\\fB{_roff(name)}\\fR" for name in flag.names)
        value = f" \\fI{flag.metavar}\\fR" if flag.metavar else ""
        lines += [".TP", names + value, _roff(flag.words[0].upper() + flag.words[1:]) + "."]
    return "\n".join(lines) + "\n"


def man_tools() -> str:
    """The tools as tagged paragraphs of a manual page."""
    lines = []
    for word, each in TOOLS.items():
        lines += [".TP", f".B fastbean {word}", _roff(each.help[0].upper() + each.help[1:]) + "; see"]
        lines += [f".BR fastbean\\-{word} (1)."]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")


def bash(program: str, flags: list[Flag]) -> str:
    """The completion for bash; that of ``fastbean`` completes the tools too."""
    functions = [_bash_function(program, flags)]
    if program == "fastbean":
        functions = [
            _bash_function("fastbean daemon", flags),
            _bash_function("fastbean benchmark", benchmark_flags()),
            f"""_fastbean_binlog() {{
    local IFS=$'\n'
    if [ "$COMP_CWORD" = 2 ]; then
        COMPREPLY=($(compgen -W '{_lines(" ".join(COMMANDS))}' -- "${{COMP_WORDS[COMP_CWORD]}}"))
    else
        compopt -o filenames 2>/dev/null
        COMPREPLY=($(compgen -d -- "${{COMP_WORDS[COMP_CWORD]}}"))
    fi
}}
""",
            f"""_fastbean() {{
    case $COMP_CWORD:${{COMP_WORDS[1]}} in
    1:-*) _fastbean_daemon ;;
    1:*) COMPREPLY=($(compgen -W '{" ".join(TOOLS)}' -- "${{COMP_WORDS[1]}}")) ;;
    *:binlog) _fastbean_binlog ;;
    *:benchmark) _fastbean_benchmark ;;
    2:cluster) COMPREPLY=($(compgen -W '{" ".join(CLUSTER_COMMANDS)}' -- "${{COMP_WORDS[2]}}")) ;;
    *:cluster | *:health) COMPREPLY=() ;;
    *) _fastbean_daemon ;;
    esac
}}
""",
        ]
    head = f"# Completion of {program} for bash; written by packaging/make_pages.py.\n"
    return head + "".join(functions) + f"complete -F {_function(program)} {program}\n"


def _function(program: str) -> str:
    return "_" + program.replace("-", "_").replace(" ", "_")


def _bash_function(program: str, flags: list[Flag]) -> str:
    by_values: dict[str, list[str]] = {}
    for flag in flags:
        if flag.metavar:
            by_values.setdefault(flag.values, []).extend(flag.names)
    cases = []
    for values, spellings in by_values.items():
        names_of_files = '\n        compopt -o filenames 2>/dev/null\n        COMPREPLY=($(compgen -{} -- "$cur"))'
        offer = {
            DIRECTORY: names_of_files.format("d"),
            FILE: names_of_files.format("f"),
            USER: '\n        COMPREPLY=($(compgen -u -- "$cur"))',
            "": "",
        }.get(values, f"\n        COMPREPLY=($(compgen -W '{_lines(values)}' -- \"$cur\"))")
        cases.append(f"    {' | '.join(spellings)}){offer}\n        return\n        ;;")
    names = _lines(" ".join(name for flag in flags for name in flag.names))
    return f"""{_function(program)}() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} IFS=$'\n'
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
"""


def _lines(words: str) -> str:
    return words.replace(" ", "\n")


def zsh(program: str, flags: list[Flag]) -> str:
    """The completion for zsh; that of ``fastbean`` completes the tools too."""
    head = f"#compdef {program}\n# Completion of {program} for zsh; written by packaging/make_pages.py.\n"
    if program != "fastbean":
        return head + _zsh_flags(flags)
    words = " ".join(f"{word}:'{each.help}'" for word, each in TOOLS.items())
    commands = " ".join(f"{command}:'{text}'" for command, text in COMMANDS.items())
    cluster_commands = " ".join(f"{command}:'{text}'" for command, text in CLUSTER_COMMANDS.items())
    return f"""{head}if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then
    local -a tools=({words})
    _describe tool tools
    return
fi
case $words[2] in
binlog)
    if (( CURRENT == 3 )); then
        local -a commands=({commands})
        _describe command commands
    else
        _directories
    fi
    ;;
benchmark)
    words=(fastbean-benchmark ${{words[3,-1]}})
    (( CURRENT-- ))
    _fastbean-benchmark
    ;;
cluster)
    local -a commands=({cluster_commands})
    (( CURRENT == 3 )) && _describe command commands
    ;;
health) ;;
*)
{_indented(_zsh_flags(flags))}    ;;
esac
"""


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


def _zsh_flags(flags: list[Flag]) -> str:
    lines = []
    for flag in flags:
        names = [f"{name}{'=' if name.startswith('--') else '+'}" if flag.metavar else name for name in flag.names]
        spelled = "{" + ",".join(names) + "}" if len(names) > 1 else names[0]
        words = flag.words.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace("'", "'\\''")
        offer = {DIRECTORY: "_directories", USER: "_users", FILE: "_files", "": ""}.get(flag.values, f"({flag.values})")
        value = f":{flag.metavar}:{offer}" if flag.metavar else ""
        lines.append(f"    '*'{spelled}'[{words}]{value}'")
    return " \\\n".join(["_arguments -s", *lines]) + "\n"


def fish(program: str, flags: list[Flag]) -> str:
    """The completion for fish; that of ``fastbean`` completes the tools too."""
    head = [f"# Completion of {program} for fish; written by packaging/make_pages.py.", f"complete -c {program} -f"]
    if program != "fastbean":
        return "\n".join([*head, *_fish_flags(program, flags)]) + "\n"
    seen = "__fish_seen_subcommand_from"
    lines = _fish_flags(f"{program} -n 'not {seen} {' '.join(TOOLS)}'", flags)
    lines += [
        f"complete -c {program} -n __fish_is_first_arg -a {word} -d '{each.help}'" for word, each in TOOLS.items()
    ]
    binlog = f"complete -c {program} -n '{seen} binlog; and {{}}{seen} {' '.join(COMMANDS)}' -a"
    lines += [f"{binlog.format('not ')} {command} -d '{_fish_quoted(text)}'" for command, text in COMMANDS.items()]
    cluster = f"complete -c {program} -n '{seen} cluster; and not {seen} {' '.join(CLUSTER_COMMANDS)}' -a"
    lines += [f"{cluster} {command} -d '{_fish_quoted(text)}'" for command, text in CLUSTER_COMMANDS.items()]
    lines.append(f"{binlog.format('')} '(__fish_complete_directories)'")
    lines += _fish_flags(f"{program} -n '{seen} benchmark'", benchmark_flags())
    return "\n".join([*head, *lines]) + "\n"


def _fish_quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def _fish_flags(target: str, flags: list[Flag]) -> list[str]:
    lines = []
    for flag in flags:
        names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names)
        offer = {
            DIRECTORY: " -a '(__fish_complete_directories)'",
            USER: " -a '(__fish_complete_users)'",
            FILE: " -F",
            "": "",
        }.get(flag.values, f" -a '{flag.values}'")
        value = ("-r" if flag.values == FILE else "-x") if flag.metavar else ""
        lines.append(
            f"complete -c {target} {names}{f' {value}' if value else ''}{offer} -d '{_fish_quoted(flag.words)}'"
        )
    return lines


def pages() -> Iterator[tuple[str, str]]:
    """Every file: its path below ``share``, and its text."""
    programs = {"fastbean": server_flags(), "fastbean-benchmark": benchmark_flags()}
    for source in sorted((HERE / "pages").glob("*.1")):
        text = source.read_text().replace(VERSION_MARK, __version__).replace(TOOLS_MARK, man_tools())
        yield f"man/man1/{source.name}", text.replace(FLAGS_MARK, man_flags(programs.get(source.stem, [])))
    for program, flags in programs.items():
        yield f"bash-completion/completions/{program}", bash(program, flags)
        yield f"zsh/site-functions/_{program}", zsh(program, flags)
        yield f"fish/vendor_completions.d/{program}.fish", fish(program, flags)


def commands() -> str:
    """The page that lists the commands."""
    lines = ["| command | acts on | changes | right |", "|---|---|---|---|"]
    for row in command_table.table():
        line = " ".join([row["word"], *(f"<{ARGUMENT_WORDS.get(name, name)}>" for name in row["arguments"])])
        lines.append(f"| `{line}` | {row['acts_on']} | {'yes' if row['changes'] else 'no'} | {row['right']} |")
    text = (HERE / "pages" / "commands.md").read_text()
    return text.replace(COMMANDS_MARK, "\n".join(lines) + "\n")


def statistics() -> str:
    """The page that lists the statistics."""
    text = (HERE / "pages" / "statistics.md").read_text()
    for name, rows in tables().items():
        text = text.replace(STATISTICS_MARK.format(name), _markdown(rows))
    return text


def _markdown(rows: "Sequence[dict[str, str]]") -> str:
    """A table of statistics; the column of metrics is left out where there are none."""
    has_metrics = any(row["metric"] for row in rows)
    columns = ["key", "kind", "unit", "origin", "help", *(["metric"] if has_metrics else [])]
    lines = [columns, ["---"] * len(columns)]
    for row in rows:
        cells = dict(row, key=f"`{row['key']}`", metric=f"`{row['metric']}`" if row["metric"] else "")
        lines.append([cells[column] for column in columns])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main() -> None:
    """Writes all files."""
    STATISTICS_PAGE.write_text(statistics())
    COMMANDS_PAGE.write_text(commands())
    for path, text in pages():
        target = HERE / "share" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


if __name__ == "__main__":
    main()
