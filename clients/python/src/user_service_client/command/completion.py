"""`users completion SHELL`: a script that completes the commands and their options, made from the parser."""

from __future__ import annotations

from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Iterator

BASH = """\
_users() {{
  local words
  if [ "$COMP_CWORD" = 1 ]; then
    words="{commands}"
  else
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _users users
"""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n" + BASH


def make_script(parser: ArgumentParser, shell: str) -> str:
    """For `source <(users completion bash)`, the same in zsh, and `users completion fish | source`."""
    commands = find_commands(parser)
    if shell == "fish":
        return "".join(fish_lines(commands))
    cases = "\n".join(f'      {name}) words="{" ".join(list_words(each))}" ;;' for name, each in commands.items())
    script = ZSH if shell == "zsh" else BASH
    return script.format(commands=" ".join(commands), cases=cases)


def find_commands(parser: ArgumentParser) -> dict[str, ArgumentParser]:
    (choices,) = (each.choices for each in parser._actions if isinstance(each, _SubParsersAction))
    return dict(choices)


def list_words(command: ArgumentParser) -> list[str]:
    """Long options, and the values of a positional argument that has a list of them."""
    words = [option for each in command._actions for option in each.option_strings if option.startswith("--")]
    for each in command._actions:
        if not each.option_strings and each.choices is not None:
            words += map(str, each.choices)
    return words


def fish_lines(commands: dict[str, ArgumentParser]) -> Iterator[str]:
    yield "complete -c users -e\n"
    for name, command in commands.items():
        summary = (command.description or "").replace("'", "")
        yield f"complete -c users -f -n __fish_use_subcommand -a {name} -d '{summary}'\n"
        for word in list_words(command):
            option = f"-l {word[2:]}" if word.startswith("--") else f"-a {word}"
            yield f"complete -c users -n '__fish_seen_subcommand_from {name}' {option}\n"
