"""What editors and shells complete: the JSON Schema of configs (`trimtab schema`), and words (`trimtab completion`)."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout, suppress

from trimtab.cli import captions
from trimtab.cli.console import VERBS, parser, say
from trimtab.cli.steer import ACTIONS
from trimtab.errors import ConfigProblems, Problem, nearest
from trimtab.systems import SYSTEMS, imported, recipes

SHELLS = ("bash", "zsh", "fish")
_OPTION = re.compile(r"^ {2,4}(?:-\w(?: \S+)?, )?(--[\w-]+)", re.MULTILINE)
_STEER = ("fit", *ACTIONS)
_OF_CONFIGS = ("check", "run", "sweep")
_OF_RUNS = ("resume", "report", "export")
_PLAIN = "A-Za-z0-9_./~+:@%,=-"
"""Characters that a shell takes as they are; names with others are quoted."""


def schema(argv: Sequence[str]) -> int:
    """Print the JSON Schema of the configs of a system, or of all; or their keys, one a line."""
    options = parser("schema")
    options.add_argument(
        "system", metavar="SYSTEM", nargs="?", help=f"one of {', '.join(SYSTEMS)}; all if not given"
    )
    options.add_argument(
        "--keys", action="store_true", help="print the keys, what their values are, and what for"
    )
    arguments = options.parse_args(argv)
    name = arguments.system
    if name is not None and name not in SYSTEMS:
        problem = Problem("system", repr(name), f"one of {', '.join(SYSTEMS)}", nearest(name[:60], SYSTEMS))
        raise ConfigProblems([problem])
    configs = [system.job_class() for system in ([SYSTEMS[name]] if name else SYSTEMS.values())]
    if not arguments.keys:
        say(json.dumps(imported("trimtab.runs.schema:json_schema")(*configs), indent=1))
        return 0
    for config in configs:
        for key, values, what in imported("trimtab.runs.schema:keys")(config):
            say(f"{key}\n    {values}" + (f"\n    {what}" if what else ""))
    return 0


def completion(argv: Sequence[str]) -> int:
    """Print a script that completes verbs, options, recipes, runs and keys of configs in a shell."""
    options = parser("completion")
    options.add_argument("shell", metavar="SHELL", choices=SHELLS, help=" or ".join(SHELLS))
    shell = options.parse_args(argv).shell
    say(_fish() if shell == "fish" else _bash(zsh=shell == "zsh"))
    return 0


def _options_of(*words: str) -> list[str]:
    """The options of a verb, read off its help."""
    verb, *rest = words
    text = io.StringIO()
    with redirect_stdout(text), suppress(SystemExit):
        imported(f"trimtab.cli.{VERBS[verb].file}:{verb}")([*rest, "--help"])
    return sorted({*_OPTION.findall(text.getvalue()), "--help"})


def _of_captions() -> list[str]:
    """The actions of `captions` and their options, of which there are few."""
    options = {option for action in captions.ACTIONS for option in _options_of("captions", action)}
    return [*captions.ACTIONS, *sorted(options)]


def _recipes_of(system: str) -> list[str]:
    return [name for name in recipes() if name.startswith(f"{system}/")]


def _config_keys() -> list[str]:
    """Keys of all systems as overrides on a command line."""
    keys = imported("trimtab.runs.config:dotted_keys")
    dotted = {key for system in SYSTEMS.values() for key in keys(system.job_class())}
    return sorted(f"--{key}" for key in dotted)


def _bash(*, zsh: bool) -> str:
    """A completion function of bash; zsh runs it by its own emulation."""
    cases = []
    for verb in VERBS:
        words = [*_options_of(verb)]
        words += _config_keys() if verb in _OF_CONFIGS else []
        words += [*recipes()] if verb in (*_OF_CONFIGS, "cp") else []
        words += [*SYSTEMS] if verb == "schema" else [*SHELLS] if verb == "completion" else []
        words += [*_STEER] if verb == "steer" else _recipes_of("leaks") if verb == "audit" else []
        words += _of_captions() if verb == "captions" else []
        cases.append(f'    {verb}) words="{" ".join(words)}" ;;')
    for action in _STEER:
        fitted = _recipes_of("steering") if action == "fit" else []
        words = [*_options_of("steer", action), *fitted]
        cases.append(f'    "steer {action}") words="{" ".join(words)}" ;;')
    head = ["autoload -U +X bashcompinit && bashcompinit"] if zsh else []
    return "\n".join(
        [
            f"# trimtab completion {'zsh' if zsh else 'bash'}",
            *head,
            "_trimtab() {",
            '  local words="" current="${COMP_WORDS[COMP_CWORD]}" verb="${COMP_WORDS[1]}"',
            '  [ "$verb" = steer ] && [ "$COMP_CWORD" -gt 2 ] && verb="steer ${COMP_WORDS[2]}"',
            '  [ "$COMP_CWORD" -eq 1 ] && verb=""',
            '  case "$verb" in',
            f'    "") words="{" ".join(VERBS)} --help --version" ;;',
            *cases,
            "  esac",
            '  COMPREPLY=($(compgen -W "$words" -- "$current"))',
            '  [ "$COMP_CWORD" -gt 1 ] && [ "${current#-}" = "$current" ] || return 0',
            "  local name",
            "  while IFS= read -r name; do",
            f'    case "$name" in *[!{_PLAIN}]*) printf -v name %q "$name" ;; esac',
            '    COMPREPLY+=("$name")',
            f'  done < <({_names_of_runs()}compgen -f -- "$current")',
            "  return 0",
            "}",
            "complete -F _trimtab trimtab",
        ]
    )


def _names_of_runs() -> str:
    """The command that prints the runs whose names begin with the current word; no name is ever read as a command."""
    verbs = "|".join(_OF_RUNS)
    listed = 'ls "${TRIMTAB_RUNS:-runs}" 2>/dev/null'
    match = 'while IFS= read -r name; do case "$name" in "$current"*) printf "%s\\n" "$name" ;; esac; done'
    return f'case "$verb" in {verbs}) {listed} | {match} ;; esac; '


def _fish() -> str:
    lines = ["# trimtab completion fish"]
    for verb, about in VERBS.items():
        what = about.what.replace("'", "")
        lines.append(f"complete -c trimtab -n __fish_use_subcommand -a {verb} -d '{what}'")
        more = [one for one in _of_captions() if one.startswith("--")] if verb == "captions" else []
        more += _config_keys() if verb in _OF_CONFIGS else []
        for option in dict.fromkeys([*_options_of(verb), *more]):
            lines.append(f"complete -c trimtab -n '__fish_seen_subcommand_from {verb}' -l {option[2:]}")
    named: dict[tuple[str, ...], Iterable[str]] = {
        (*_OF_CONFIGS, "cp"): recipes(),
        ("schema",): SYSTEMS,
        ("completion",): SHELLS,
        ("steer",): _STEER,
        ("captions",): captions.ACTIONS,
        ("audit",): _recipes_of("leaks"),
    }
    for verbs, words in named.items():
        seen = f"__fish_seen_subcommand_from {' '.join(verbs)}"
        lines.append(f"complete -c trimtab -n '{seen}' -a '{' '.join(words)}'")
    runs = "(ls (set -q TRIMTAB_RUNS; and echo $TRIMTAB_RUNS; or echo runs) 2>/dev/null)"
    lines.append(f"complete -c trimtab -n '__fish_seen_subcommand_from {' '.join(_OF_RUNS)}' -a '{runs}'")
    return "\n".join(lines)
