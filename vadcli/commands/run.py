"""`vad run`: a recipe, that is a list of `vad` commands, from extraction to the table."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vadcli.cluster import ClusterOptions, clustered, lost_lines
from vadcli.console import Console
from vadcli.options import CacheDirOption, DryRunOption, JsonOption, ManifestOption, RunsDirOption

if TYPE_CHECKING:
    from pipelines.chain import RunResult
    from pipelines.cluster.jobs import JobStatus
    from pipelines.cluster.recipes import Recipe, Step

PENDING = "answer-of-a-step"  # stands for `${step.key}` while a command is checked


def complete_recipe(incomplete: str) -> list[str]:
    """`ls`, `show` and the names of the packaged recipes."""
    from pipelines.cluster.recipes import packaged

    return [name for name in ("ls", "show", *(p.stem for p in packaged())) if name.startswith(incomplete)]


@clustered
def run(
    ctx: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|ls|show", help="A file or a packaged recipe's name.", autocompletion=complete_recipe
        ),
    ],
    shown: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="After `show`.", autocompletion=complete_recipe)
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--with", metavar="KEY=VALUE", help="One of the recipe's variables; repeat it.")
    ] = None,
    steps: Annotated[
        list[str] | None, typer.Option("--step", metavar="NAME", help="Only this step; repeat it.")
    ] = None,
    cache_dir: CacheDirOption = None,
    runs_dir: RunsDirOption = None,
    manifest: ManifestOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    *,
    cluster: ClusterOptions,
) -> None:
    """Run a recipe's commands in order, each once what it needs is done; the same command again does only what is missing.

    vad run ls                                   the recipes that come with the package
    vad run show main-job                        its variables, steps and commands
    vad run main-job --with dataset=cameras      with another value
    vad run ./mine.yaml --dry-run                the graph, every command checked, nothing run
    vad run main-job --executor slurm --gres gpu:1 --timeout 4h     a chain of jobs; --workers N: N steps at once here
    """
    from pipelines.errors import UsageError

    console = Console.of(ctx, json=as_json)
    if what == "ls":
        _list(console)
        return
    if what == "show" and shown is None:
        raise UsageError("vad run show: which recipe?", hint="vad run ls")
    if what != "show" and shown is not None:
        raise UsageError(f"one recipe at a time, not {what} and {shown}", hint=f"vad run show {what}")
    recipe = _load(ctx, str(shown if what == "show" else what), tuple(changes or ()), manifest)
    if what == "show" or dry_run:
        _show(console, recipe, tuple(steps or ()))
        return
    places_given = (cache_dir, runs_dir, manifest)
    if cluster.executor == "slurm":
        _on_slurm(ctx, console, recipe, tuple(steps or ()), tuple(changes or ()), cluster, places_given)
        return
    result = _here(console, recipe, tuple(steps or ()), cluster, places_given)
    _render(console, result)
    result.raise_for_failures()


def _here(
    console: Console,
    recipe: Recipe,
    only: tuple[str, ...],
    cluster: ClusterOptions,
    given: tuple[str | None, Path | None, Path | None],
) -> RunResult:
    from pipelines import chain
    from pipelines.artifacts import resolve_roots
    from pipelines.errors import UsageError
    from vadcli.console import Mode

    part = cluster.index()
    if part is not None and len(only) != 1:
        raise UsageError("--num-shards divides one step", hint="--step NAME")
    request = chain.RunRequest(
        recipe=recipe,
        runs=resolve_roots(runs_dir=given[1]).runs,
        only=only,
        workers=cluster.workers or 1,
        max_failed=cluster.max_failed,
        environment=_environment(*given),
        extra=("--num-shards", str(part[1]), "--shard-id", str(part[0])) if part else (),
        answers="all" if console.mode is Mode.JSON else "needed",
    )
    return chain.run(request, progress=console.progress)


def _on_slurm(
    ctx: typer.Context,
    console: Console,
    recipe: Recipe,
    only: tuple[str, ...],
    changes: tuple[str, ...],
    cluster: ClusterOptions,
    given: tuple[str | None, Path | None, Path | None],
) -> None:
    """Submit the chain; with --wait stay until it is over and say how each step ended."""
    from dataclasses import asdict

    from pipelines import chain
    from pipelines.artifacts import resolve_roots
    from pipelines.cluster import chains, jobs, slurm

    runs = resolve_roots(runs_dir=given[1]).runs
    environment = _environment(*given)
    named = {"VAD_CACHE": "--cache-dir", "VAD_MANIFEST": "--manifest"}
    request = chains.ChainRequest(
        recipe=recipe,
        runs=runs,
        state=chain.state_folder(recipe, runs),
        words=lambda step: cluster.with_step(step.slurm).words(),
        resources=lambda step: slurm.fitted(cluster.with_step(step.slurm).resources()),
        tasks=lambda step: _n_tasks(ctx.find_root().command, step),
        changes=changes,
        only=only,
        places=[
            *(w for k, o in named.items() if k in environment for w in (o, environment[k])),
            "--runs-dir",
            str(runs),
        ],
        environment=environment | {"VAD_RUNS": str(runs)},
        max_failed=cluster.max_failed,
    )
    submitted = chains.submit(request, told=console.note)
    told = {step.name: asdict(step) for step in submitted}
    if not cluster.wait or not any(step.job for step in submitted):
        console.json({"recipe": recipe.name, "folder": request.state, "steps": told})
        console.table("", ("step", "job", "folder"), [(s.name, s.job or "up to date", s.folder) for s in submitted])
        return
    slurm.wait([id for step in submitted if step.folder for id in jobs.ids_of(step.folder)])
    found = chains.verdicts(submitted)
    states = {n: "up to date" if n not in found else _ended(found[n]) for n in told}
    console.json({"recipe": recipe.name, "folder": request.state, "steps": told, "states": states})
    console.table("", ("step", "state", "folder"), [(s.name, states[s.name], s.folder) for s in submitted])
    chains.raise_for_failures(found, lost_lines)


def _ended(status: JobStatus) -> str:
    if status.lost or status.missing:
        return "not finished"
    return f"done, {len(status.failed)} failed" if status.failed else "done"


def _n_tasks(root: Any, step: Step) -> int:
    """Runs that a training step makes, one task each; 1 for every other step."""
    if step.argv[0] != "train":
        return 1
    from pipelines import train

    given = _parsed(root, list(step.filled(dict.fromkeys(step.needs, _Pending()))))[1]
    return train.n_members(
        train.TrainRequest(seeds=given.get("seeds") or 1, sets=tuple(given.get("assignments") or ()))
    )


def _environment(cache_dir: str | None, runs_dir: Path | None, manifest: Path | None) -> dict[str, str]:
    """The three places as variables, which every command of the recipe reads."""
    from os import pathsep

    cache = pathsep.join(str(Path(part).expanduser().absolute()) for part in (cache_dir or "").split(pathsep) if part)
    named = {"VAD_CACHE": cache, "VAD_RUNS": runs_dir, "VAD_MANIFEST": manifest}
    return {
        key: str(Path(str(v)).expanduser().absolute()) if key != "VAD_CACHE" else str(v)
        for key, v in named.items()
        if v
    }


def _load(ctx: typer.Context, text: str, changes: tuple[str, ...], manifest: Path | None) -> Recipe:
    from pipelines.chain import RECIPES
    from pipelines.cluster import recipes
    from pipelines.errors import UsageError

    recipe = recipes.load(recipes.find(text), changes)
    if recipe.path.parent.parent.name == RECIPES and recipe.path.parent.name == f"{recipe.name}-{recipe.id[:8]}":
        return recipe  # the copy that a submission made after checking it
    problems = problems_of(ctx.find_root().command, recipe, manifest)
    if problems:
        raise UsageError(
            f"the recipe {recipe.path} has commands that cannot run:\n  " + "\n  ".join(problems),
            hint=f"vad run show {text}",
        )
    return recipe


def problems_of(root: Any, recipe: Recipe, manifest: Path | None = None) -> list[str]:
    """Everything wrong with the recipe's commands: verbs, options, values, datasets and configuration keys.

    Each command line is parsed by the verb's own parser; nothing of it is executed.
    """
    return [
        f"{step.name} (vad {shlex.join(step.argv)}): {problem}"
        for step in recipe.steps
        for problem in _problems_of(root, step, manifest)
    ]


def _problems_of(root: Any, step: Step, manifest: Path | None) -> list[str]:
    from typer.exceptions import TyperException

    from pipelines.errors import VadError

    pending = {one.partition(".")[0]: _Pending() for one in step.references}
    found = []
    if {"--help", "-h"} & set(step.argv):
        return ["it only prints help"]
    try:
        verb, parameters = _parsed(root, list(step.filled(pending)))
    except TyperException as error:
        return [str(error.format_message())]
    except VadError as error:
        return [error.message]
    for check in _checks(verb, parameters, manifest):
        try:
            check()
        except VadError as error:
            found.append(error.message.replace("\n", "\n  "))
    return found


class _Pending(dict[str, Any]):
    """An answer that has every key."""

    def get(self, key: str, default: Any = None) -> Any:
        """A text that stands for the value; also for a value inside the value."""
        return _Pending()

    def __str__(self) -> str:
        return PENDING


def _parsed(root: Any, argv: list[str]) -> tuple[str, dict[str, Any]]:
    """The verb and the values of its parameters, as its own parser reads them."""
    from pipelines.errors import UsageError
    from pipelines.recipe import suggest

    command, path, words = root, "vad", argv
    while hasattr(command, "commands"):
        known = command.commands
        if not words or words[0] not in known:
            word = words[0] if words else ""
            raise UsageError(f"unknown verb {word!r}{suggest(word, list(known))}")
        command, path, words = known[words[0]], f"{path} {words[0]}", words[1:]
        command = command.real() if hasattr(command, "real") else command
    return path.removeprefix("vad "), command.make_context(path, words).params


def _checks(verb: str, parameters: dict[str, Any], manifest: Path | None) -> list[Callable[[], object]]:
    """What can be wrong with the names that a command gives: each raises a VadError where it is."""
    given = {key: value for key, value in parameters.items() if PENDING not in str(value)}
    dataset = given.get("dataset")
    checks: list[Callable[[], object]] = []
    if isinstance(dataset, str):
        checks.append(lambda: _dataset(dataset, given.get("manifest") or manifest))
    match verb:
        case "extract" if given.get("encoder"):
            checks.append(lambda: _encoders(given))
        case "train":
            checks.append(lambda: _method(given))
        case "eval":
            checks.append(lambda: _metrics(given))
        case _:
            pass
    return checks


def _dataset(name: str, manifest: Path | None) -> None:
    from pipelines.data.manifest import load

    load(manifest).dataset(name)


def _encoders(given: dict[str, Any]) -> None:
    from pipelines.extraction.plan import choose_encoders

    choose_encoders((given["encoder"],), given.get("settings") or ())


def _method(given: dict[str, Any]) -> None:
    from pipelines import train

    train.check(
        train.TrainRequest(
            method=given.get("method") or "mil-rank",
            dataset=given.get("dataset"),
            preset=given.get("preset"),
            config=given.get("config"),
            sets=tuple(given.get("assignments") or ()),
        )
    )


def _metrics(given: dict[str, Any]) -> None:
    from pipelines import evaluate
    from vadcli.commands.eval import words

    evaluate.check_names(evaluate.EvalRequest(metrics=words(given.get("metric")) or ("all",)))


def _list(console: Console) -> None:
    from pipelines.cluster import recipes

    listed = [recipes.load(path) for path in recipes.packaged()]
    console.json(
        {"recipes": [{"name": r.name, "title": r.title, "variables": r.variables, "path": r.path} for r in listed]}
    )
    console.table("", ("recipe", "steps", "title"), [(r.name, len(r.steps), r.title) for r in listed])
    console.text("\nvad run show RECIPE says what it runs; vad run RECIPE runs it")


def _show(console: Console, recipe: Recipe, only: tuple[str, ...]) -> None:
    for name in only:
        recipe.step(name)
    steps = [step for step in recipe.steps if not only or step.name in only]
    console.json(
        {
            "dry_run": True,
            "recipe": recipe.name,
            "path": recipe.path,
            "title": recipe.title,
            "notes": recipe.notes,
            "variables": recipe.variables,
            "steps": [{"name": s.name, "needs": s.needs, "argv": s.argv, "slurm": s.slurm} for s in steps],
        }
    )
    console.text(f"{recipe.name}: {recipe.title}")
    for note in recipe.notes:
        console.text(f"  {note}")
    if recipe.variables:
        console.text("variables (--with key=value): " + ", ".join(f"{k}={v}" for k, v in recipe.variables.items()))
    console.text()
    for step in steps:
        after = f"  after {', '.join(step.needs)}" if step.needs else ""
        console.text(f"{step.name}{after}\n    vad {shlex.join(step.argv)}")


def _render(console: Console, result: RunResult) -> None:
    from dataclasses import asdict

    console.json(asdict(result))
    rows = [(step.name, step.state, step.code, f"{step.seconds:.1f}") for step in result.steps]
    console.table("", ("step", "state", "exit", "seconds"), rows)
    console.text(f"\n{result.folder}")
