"""Options that several verbs share, each written once; completion reads names only and imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CONFIG, PLACES, OUTPUT = "Configuration", "Where things are", "Output"


def complete_dataset(incomplete: str) -> list[str]:
    """Dataset names of the manifest that begin with `incomplete`; nothing when the manifest does not load."""
    from pipelines.errors import VadError

    try:
        from pipelines.data.manifest import load

        return [name for name in load().names() if name.startswith(incomplete)]
    except (ImportError, VadError):
        return []


def complete_method(incomplete: str) -> list[str]:
    """Method names that begin with `incomplete`."""
    from pipelines import catalog

    return [name for name in catalog.names("methods") if name.startswith(incomplete)]


def complete_encoder(incomplete: str) -> list[str]:
    """Encoder names, also after a comma or a plus sign (`effnet:lite0+mo`)."""
    from pipelines import catalog

    cut = max(incomplete.rfind(","), incomplete.rfind("+")) + 1
    done, word = incomplete[:cut], incomplete[cut:]
    return [done + name for name in catalog.names("encoders") if name.startswith(word)]


def complete_metric(incomplete: str) -> list[str]:
    """Metric names that begin with `incomplete`."""
    from pipelines import catalog

    listed: list[str] = ["all"]
    for entry in catalog.entries("metrics").values():
        metrics = entry.facts.get("METRICS")
        listed += [str(m) for m in metrics] if isinstance(metrics, (list, tuple, dict)) else [entry.name]
    return [name for name in listed if name.startswith(incomplete)]


def complete_device(incomplete: str) -> list[str]:
    """The words that --device takes."""
    return [name for name in ("auto", "cpu", "cuda", "cuda:0", "mps") if name.startswith(incomplete)]


DatasetArgument = Annotated[
    str, typer.Argument(metavar="DATASET", help="A dataset's name (vad data ls).", autocompletion=complete_dataset)
]
DatasetOption = Annotated[
    str | None,
    typer.Option("--dataset", metavar="NAME", help="A dataset's name (vad data ls).", autocompletion=complete_dataset),
]
SplitOption = Annotated[
    str | None, typer.Option("--split", metavar="NAME", help="A named split; the dataset's default one unless given.")
]
MethodOption = Annotated[
    str,
    typer.Option(
        "--method", metavar="NAME|FILE.py", help="A method (vad methods ls) or a file.", autocompletion=complete_method
    ),
]
EncoderOption = Annotated[
    str | None,
    typer.Option("--encoder", metavar="A,B|A+B", help="Encoders (vad encoders ls).", autocompletion=complete_encoder),
]
FeaturesOption = Annotated[
    str | None,
    typer.Option("--features", metavar="ID|ENCODER", help="Which features to read.", autocompletion=complete_encoder),
]
RunOption = Annotated[str, typer.Option("--run", metavar="ID|latest", help="Which run.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="One value of the configuration, typed; repeat it.", rich_help_panel=CONFIG
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="A YAML configuration (a run's config.yaml too).", rich_help_panel=CONFIG
    ),
]
ShowConfigOption = Annotated[
    bool,
    typer.Option("--show-config", help="Print every value and where it came from, then stop.", rich_help_panel=CONFIG),
]
DeviceOption = Annotated[
    str,
    typer.Option("--device", metavar="auto|cpu|cuda[:N]|mps", help="Where to compute.", autocompletion=complete_device),
]
CacheDirOption = Annotated[
    str | None,
    typer.Option(
        "--cache-dir",
        metavar="DIR[:DIR]",
        help="Features; then VAD_CACHE, the manifest, ./vad_cache.",
        rich_help_panel=PLACES,
    ),
]
RunsDirOption = Annotated[
    Path | None,
    typer.Option("--runs-dir", metavar="DIR", help="Runs; then VAD_RUNS, ./vad_runs.", rich_help_panel=PLACES),
]
ManifestOption = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        metavar="FILE",
        help="Datasets; then VAD_MANIFEST, data_manifest.yaml here or above.",
        rich_help_panel=PLACES,
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, write nothing.", rich_help_panel=OUTPUT)
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout instead of text.", rich_help_panel=OUTPUT)
]
NewOption = Annotated[bool, typer.Option("--new", help="Do it again though the same artefact exists.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Really do it; without it, only say what would be done.")]
SeedOption = Annotated[int, typer.Option("--seed", metavar="N", help="The seed of everything random.")]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", metavar="N", help="Decoder processes; chosen from the cores unless given.")
]
