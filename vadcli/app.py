"""The `vad` command: a table of verbs, global options, and every error turned into a message and an exit code."""

from __future__ import annotations

import errno
import importlib
import signal
import sys
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from pipelines.errors import Stopped, VadError
from vadcli import console
from vadcli.console import Settings

COMMANDS = Path(__file__).parent / "commands"
WORK, LOOK, STORE = "The main job", "Look and compare", "Data, cache and parts"
START = "Start here"


@dataclass(frozen=True, slots=True)
class Verb:
    """One row of the table: the module is imported only when its verb runs."""

    name: str
    module: str
    attribute: str
    panel: str
    help: str


def _group(name: str, panel: str, help: str) -> Verb:
    return Verb(name, name, "app", panel, help)


def _verb(name: str, panel: str, help: str, *, function: str = "") -> Verb:
    return Verb(name, name, function or name, panel, help)


VERBS = (
    _verb("demo", START, "The whole job on videos that it draws itself; minutes, no download"),
    _verb("predict", START, "Your own video or folder: curve, events in seconds, csv, json"),
    _verb("watch", START, "Live cameras, streams, growing files: events as they begin and end"),
    _verb("calibrate", START, "A camera's threshold from footage in which nothing happens"),
    _verb("doctor", START, "Check versions, devices, decoders, weights, the cache's disk"),
    _verb("extract", WORK, "Videos -> features, once per dataset; does only what is missing"),
    _verb("train", WORK, "Features -> a run: weights, config, log"),
    _verb("eval", WORK, "A run -> scores, metrics with floors and intervals, curves", function="eval_"),
    _verb("run", WORK, "Extract, train and evaluate in one go, here or as batch jobs"),
    _verb("status", LOOK, "What is done, failed and missing"),
    _group("runs", LOOK, "List, show and compare runs; a table beside the papers' numbers"),
    _verb("floors", LOOK, "What trivial scores reach: constant, random, video label, ..."),
    _group("plot", LOOK, "Figures for papers: curves, classes, ablations, inner stages, heat maps"),
    _verb("report", LOOK, "One self-contained HTML page of an evaluation"),
    _group("data", STORE, "Datasets: list, show, check the disk, init from your own folder"),
    _group("cache", STORE, "Features: list, show, verify, collect garbage, import"),
    _group("methods", STORE, "Methods: list and show"),
    _group("encoders", STORE, "Encoders: list and show"),
    _group("metrics", STORE, "Metrics: list and show"),
    _group("weights", STORE, "Pretrained weights: list, fetch, verify"),
    _verb("export", STORE, "A run or scores in another program's format"),
)

EXIT_CODES = (
    (0, "done (also: nothing to do)"),
    (1, "error"),
    (2, "wrong usage or configuration"),
    (3, "finished, but some videos failed; they are listed"),
    (4, "a needed artefact is missing; the message has the command that makes it"),
    (5, "verification failed"),
    (75, "stopped by a signal, safe to run again"),
    (130, "Ctrl-C"),
)

PITCH = "Video anomaly detection: extract features once, train, evaluate, trace every number."
TOUR = (
    ("vad demo", "everything once, on videos it draws itself"),
    ("vad predict video.mp4", "a curve of your own video, no training needed"),
    ("vad extract ucf-crime", "the expensive part, once per dataset"),
    ("vad train --method fine-vad", "learns from the stored features"),
    ("vad eval --metric map-iou", "numbers with floors and intervals"),
)


class _Light:
    """Leaves options that were not given alone: Typer would import pydantic in every command only to read a None."""

    def get_params(self, ctx: Any) -> Any:
        """Typer's own parameters, --help among them, each with the short way for None."""
        found = super().get_params(ctx)  # type: ignore[misc]
        for parameter in found:
            if "process_value" not in vars(parameter):
                parameter.process_value = partial(_process_value, parameter, parameter.process_value)
        return found


def _process_value(parameter: Any, process: Callable[[Any, Any], Any], ctx: Any, value: Any) -> Any:
    if value is not None or parameter.required:
        return process(ctx, value)
    return parameter.callback(ctx, parameter, None) if parameter.callback else None


class LightCommand(_Light, TyperCommand):
    """A command that starts without pydantic as long as all that is given are flags."""


class LightGroup(_Light, TyperGroup):
    """A group of such commands."""


class LazyVerb(TyperCommand):
    """Stands for a verb in lists, help and completion; becomes the real command when it is about to run."""

    def __init__(self, verb: Verb) -> None:
        super().__init__(verb.name, help=verb.help, rich_help_panel=verb.panel)
        self.verb = verb

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **kwargs: Any) -> Any:
        """The context of the real command; of a group only the command that is named is built."""
        return self.real(only=args[0] if args else None).make_context(info_name, args, *rest, **kwargs)

    def real(self, *, only: str | None = None) -> Any:
        """The verb's own command, whose module is imported now."""
        return load(self.verb, only=only)


class VerbGroup(LightGroup):
    """A group filled from the table; its help is drawn without importing Rich or any verb."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands.update({verb.name: LazyVerb(verb) for verb in present()})

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; Ctrl-C and a stage's broken pipe become errors of ours before Typer turns them into bare codes."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise VadError(
                "interrupted", hint="what is finished is kept; the same command goes on", exit_code=130
            ) from error
        except BrokenPipeError as error:
            raise VadError(f"a pipe to another process broke: {error}", hint="--debug shows where") from error

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The overview: what it is, where to start, verbs in panels, exit codes."""
        formatter.write(_overview(ctx, self))


def present() -> list[Verb]:
    """The verbs whose module is installed, in the table's order."""
    return [verb for verb in VERBS if (COMMANDS / f"{verb.module}.py").is_file()]


def load(verb: Verb, *, only: str | None = None) -> Any:
    """Import the verb's module and build its command; of a group with a command `only`, that one alone (reading the
    parameters of a dozen takes as long as importing Typer)."""
    target = getattr(importlib.import_module(f"vadcli.commands.{verb.module}"), verb.attribute)
    if isinstance(target, typer.Typer):
        named = [info for info in target.registered_commands if info.name == only]
        if named:
            target = copy(target)
            target.registered_commands = named
        target.info.cls = LightGroup
        for info in target.registered_commands:
            info.cls = LightCommand
        command: Any = typer.main.get_group(target)
        command.help = command.help or verb.help
        command.no_args_is_help = True
    else:
        holder = typer.Typer(add_completion=False)
        holder.command(verb.name, cls=LightCommand)(target)
        command = typer.main.get_command(holder)
    command.name = verb.name
    return command


app = typer.Typer(
    name="vad", cls=VerbGroup, help=PITCH, context_settings={"help_option_names": ["-h", "--help"]}, add_completion=True
)


def _version(value: bool) -> None:
    if value:
        import importlib.metadata

        typer.echo(f"vadcli {importlib.metadata.version('vadcli')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def globals_(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes, only the answer.")] = False,
) -> None:
    """Keep the global options for the verb; without a verb, show the overview."""
    ctx.obj = Settings(debug=debug, quiet=quiet)
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `vad` and `vadcli`: run and leave with the exit code."""
    code = run(sys.argv[1:] if argv is None else argv)
    console.flush()
    sys.exit(code)


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    arguments = _globals_first(argv)
    debug = "--debug" in arguments[:2]
    previous = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        result = typer.main.get_command(app).main(args=arguments, prog_name=_program(), standalone_mode=False)
        return result if isinstance(result, int) else 0
    except BaseException as error:  # noqa: BLE001  the outermost frame: every error becomes a message and a code
        return _code_of(error, debug=debug)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _program() -> str:
    name = Path(sys.argv[0]).stem
    return name if name in {"vad", "vadcli"} else "vad"


def _globals_first(argv: Sequence[str]) -> list[str]:
    """--debug, --quiet and -q are accepted anywhere before `--`; they are moved to the front."""
    end = argv.index("--") if "--" in argv else len(argv)
    moved = [word for word in argv[:end] if word in {"--debug", "--quiet", "-q"}]
    return sorted(set(moved)) + [word for word in argv[:end] if word not in moved] + list(argv[end:])


def _code_of(error: BaseException, *, debug: bool) -> int:
    if debug and not isinstance(error, SystemExit | typer.Exit):
        import traceback

        console.error_text("".join(traceback.format_exception(error)))
    match error:
        case SystemExit():
            return error.code if isinstance(error.code, int) else int(error.code is not None)
        case typer.Exit():
            return error.exit_code
        case KeyboardInterrupt() | typer.Abort():
            console.error("interrupted")
            return 130
        case VadError():
            console.error(error.message, hint=error.hint)
            return error.exit_code
        case TyperException():
            if error.format_message():  # empty where no command was given: the help is on the screen
                console.error(error.format_message() + _value_of(error), hint=_help_of(error))
            return error.exit_code
        case MemoryError():
            console.error("out of memory", hint="fewer --workers or a smaller --batch")
            return 1
        case OSError() if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            console.error(f"no space left: {error}", hint="free some space; the same command finishes the rest")
            return 1
        case _:
            console.error(f"unexpected {type(error).__name__}: {error}", hint="--debug shows the traceback")
            return 1


def _value_of(error: TyperException) -> str:
    """The value that could not be read, where Typer's message leaves it out."""
    details: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
    return f" (given: {details[0]['input']!r})" if details and "input" in details[0] else ""


def _help_of(error: TyperException) -> str:
    ctx = getattr(error, "ctx", None)
    return f"{ctx.command_path if ctx else 'vad'} --help"


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(
        f"stopped by {signal.Signals(number).name}", hint="finished videos are kept; the same command goes on"
    )


def _overview(ctx: Any, group: TyperGroup) -> str:
    sections = [
        (panel, [(v.name, v.help) for v in present() if v.panel == panel]) for panel in (START, WORK, LOOK, STORE)
    ]
    records = (parameter.get_help_record(ctx) for parameter in group.get_params(ctx))
    sections.append(("Global options", [(record[0], record[1]) for record in records if record]))
    sections.append(("Exit codes", [(str(code), meaning) for code, meaning in EXIT_CODES]))
    usage = "\n".join([PITCH, "", "Usage: vad VERB ...                vad VERB --help says more", ""])
    tour = "\n".join(f"  {command:<30}{what}" for command, what in TOUR)
    return f"{usage}\n{tour}\n\n" + console.panels([section for section in sections if section[1]])
