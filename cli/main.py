"""The command ``penultimate``: register its verbs and turn errors into exit codes.

Data goes to stdout, messages to stderr. Exit codes: 0 done, 1 a run failed, 2 wrong usage or input, 130 interrupted.
"""

import errno
import os
import sys
from typing import Annotated

import typer

from penultimate.cli import (
    analyze,
    audit,
    datasets,
    demo,
    extract,
    imagenet_eval,
    models,
    parity,
    predict,
    probe,
    report,
    settings,
    show,
    store,
    study,
    train,
)
from penultimate.cli.bench.app import app as bench
from penultimate.cli.grouped_help import GroupedCommand
from penultimate.engine.runtime.capabilities import cpu_class
from penultimate.engine.runtime.malloc import keep_freed_memory
from penultimate.store.errors import PenultimateError
from penultimate.store.provenance import library_versions

app = typer.Typer(
    name="penultimate",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (
    extract.extract,
    parity.parity,
    probe.probe,
    predict.predict,
    train.train,
    show.show,
    analyze.analyze,
    report.report,
    audit.audit,
    models.models,
    settings.settings,
    imagenet_eval.imagenet_eval,
    demo.demo,
):
    app.command(cls=GroupedCommand)(verb)
app.add_typer(bench, name="bench")
app.add_typer(datasets.app, name="datasets")
app.add_typer(study.app, name="study")
app.add_typer(store.app, name="store")

# Typer carries its own copy of Click and does not export this base of all its usage errors.
_ClickException: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


_INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as in shells. Typer returns it without a message."""


_WRONG_PATH = (
    errno.ENOENT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
"""Errors of the operating system for a path that was given wrongly: exit code 2."""


@app.callback(invoke_without_command=True)
def penultimate(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Which vision backbones transfer? Extract features once, probe them in seconds, and see how sure the answer is.

    \b
    penultimate extract photos/ --store features.zarr --model resnet50.a1_in1k --model vit_base_patch16_224
    penultimate probe features.zarr --trials trials/
    penultimate show trials/
    """
    if version:
        typer.echo(f"penultimate {library_versions().get('penultimate', 'not installed')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run the command line and leave with its exit code."""
    keep_freed_memory()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; an expected error becomes one line on stderr and its exit code."""
    try:
        cpu_class()  # a bad PENULTIMATE_CPU is an error for every verb
        code = typer.main.get_command(app).main(arguments, prog_name="penultimate", standalone_mode=False)
    except PenultimateError as error:
        return _fail(str(error), error.exit_code)
    except _ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a group without its verb: the message is the help
            print(error.format_message(), file=sys.stderr)  # type: ignore[attr-defined]  # ClickException's own
            return 2
        return _fail(f"{error.format_message()} (see --help)", 2)  # type: ignore[attr-defined]  # ClickException's own
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except BrokenPipeError:  # the reader of our output has exited, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"{error}; run the same command again once that is mended", 2 if error.errno in _WRONG_PATH else 1)
    if code == _INTERRUPTED:
        return _fail("interrupted; run the same command again to go on where it stopped", code)
    return code if isinstance(code, int) else 0


def _fail(message: str, exit_code: int) -> int:
    print(f"penultimate: {' '.join(message.split())}", file=sys.stderr)
    return exit_code
