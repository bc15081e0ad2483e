"""The command line, a file a verb.

Exit status 0 done; 1 a check failed; 2 bad input, reported in one line on stderr: ``[<file>: ]<key>: <what>; <fix>``.
What takes a while is said in a line of its own before.
Heavy imports happen inside the verbs, so ``stepsmith --help`` is quick.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from stepsmith import __version__
from stepsmith.cli import bench, build, check, derive, error, grid, report, sample, search, show, tune, verify
from stepsmith.cli import list as list_
from stepsmith.cli.shared import fail, stop_in_code_of_the_user
from stepsmith.errors import CertificateError, InputError, Unsupported, one_line


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(__version__, prog_name="stepsmith")
def cli() -> None:
    """A compiler from a linear diffusion to a proven sampler."""


for verb in (list_, derive, error, grid, build, show, verify, sample, tune, bench, check, report, search):
    cli.add_command(verb.command)


def main() -> NoReturn:
    """Run the command line; bad input is one line and exit status 2, a closed pipe is no error."""
    try:
        with cli.make_context("stepsmith", sys.argv[1:] or ["--help"]) as context:
            cli.invoke(context)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        fail("interrupted: stopped by the user; run it again", 130)
    except click.ClickException as wrong:
        param = getattr(wrong, "param", None)
        option = max(param.opts, key=len).lstrip("-") if param else getattr(wrong, "option_name", "arguments")
        verb = getattr(getattr(wrong, "ctx", None), "command_path", "stepsmith")
        fail(f"{option}: {one_line(wrong.format_message()).rstrip('.')}; see {verb} --help", 2)
    except InputError as wrong:
        fail(str(wrong), 2)
    except Unsupported as wrong:
        fail(f"unsupported: {wrong}", 2)
    except CertificateError as wrong:
        fail(str(wrong), 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that nothing is flushed into it at the end
    except OSError as wrong:  # what no check sees beforehand: a full disk, a folder that is not one
        fail(f"{wrong.filename or '-'}: file: {wrong.strerror or one_line(str(wrong))}; choose another place", 2)
    except (MemoryError, RuntimeError) as wrong:  # torch reports the former as the latter
        if not isinstance(wrong, MemoryError) and "memory" not in str(wrong):
            stop_in_code_of_the_user(wrong)
            raise
        fail("memory: this machine has too little for it; ask for fewer seeds or steps", 2)
    except Exception as wrong:
        stop_in_code_of_the_user(wrong)
        raise
    sys.exit(0)
