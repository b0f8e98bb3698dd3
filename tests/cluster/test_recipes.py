"""Recipe files: what they may say, everything wrong with one at once, and every packaged one checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from pipelines.cluster import recipes
from pipelines.errors import MissingArtifactError, UsageError
from tests.cli.process import vad
from vadcli.app import app
from vadcli.commands.run import problems_of

ROOT = typer.main.get_command(app)


def write(path: Path, steps: str, variables: str = "{}") -> Path:
    path.write_text(f"schema: 1\ntitle: t\nvars: {variables}\nsteps:\n{steps}")
    return path


def load(tmp_path: Path, steps: str, variables: str = "{}", *changes: str) -> recipes.Recipe:
    return recipes.load(write(tmp_path / "r.yaml", steps, variables), changes)


@pytest.mark.parametrize("path", recipes.packaged(), ids=lambda path: path.stem)
def test_every_packaged_recipe_has_verbs_options_datasets_and_keys_that_exist(path: Path) -> None:
    recipe = recipes.load(path)
    assert problems_of(ROOT, recipe) == []
    assert recipe.title and recipe.steps


def test_there_is_a_packaged_example_and_the_commands_find_it() -> None:
    assert "main-job" in [path.stem for path in recipes.packaged()]
    listed = json.loads(vad("run", "ls", "--json").stdout)["recipes"]
    assert {"main-job"} <= {recipe["name"] for recipe in listed}


def test_words_are_split_variables_put_in_and_commands_put_in_order(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        "  - {name: b, run: 'vad eval --run ${a.group} --metric \"auc, ap\"'}\n"
        "  - {name: a, run: [train, $data, --set, k=$$x, --seeds, '${n}'], needs: c}\n"
        "  - {name: c, run: extract $data}\n",
        "{data: my videos, n: 3}",
        "n=5",
    )
    assert [step.name for step in recipe.steps] == ["c", "a", "b"]
    a, b = recipe.step("a"), recipe.step("b")
    assert a.filled({}) == ("train", "my videos", "--set", "k=$x", "--seeds", "5")
    assert b.needs == ("a",) and b.references == ("a.group",)
    assert b.filled({"a": {"group": "/runs/g"}}) == ("eval", "--run", "/runs/g", "--metric", "auc, ap")


def test_a_value_inside_lists_and_one_that_is_not_there(tmp_path: Path) -> None:
    step = load(
        tmp_path, "  - {name: a, run: extract d}\n  - {name: b, run: 'train d --features ${a.artifacts.1.id}'}\n"
    ).step("b")
    assert step.filled({"a": {"artifacts": [{"id": "x"}, {"id": "y"}]}})[-1] == "y"
    with pytest.raises(MissingArtifactError, match="no answer yet"):
        step.filled({})
    with pytest.raises(MissingArtifactError, match="has no '1'; there is 0"):
        step.filled({"a": {"artifacts": [{"id": "x"}]}})


def test_a_dollar_in_a_changed_value_is_no_variable(tmp_path: Path) -> None:
    recipe = load(tmp_path, "  - {name: a, run: extract $d}\n", "{d: x}", "d=$HOME ${a.b}")
    assert recipe.step("a").filled({}) == ("extract", "$HOME ${a.b}") and recipe.step("a").references == ()


def test_other_values_are_another_recipe_and_comments_are_not(tmp_path: Path) -> None:
    steps = "  - {name: a, run: extract $d}\n"
    assert load(tmp_path, steps, "{d: x}").id == load(tmp_path, steps + "# more\n", "{d: x}").id
    assert load(tmp_path, steps, "{d: x}").id != load(tmp_path, steps, "{d: x}", "d=y").id


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(
            tmp_path,
            "  - {name: a, run: extract $dataste}\n"
            "  - {name: 'b c', run: 'run other', needs: z}\n"
            '  - {name: a, run: "train \'x", slurm: {partion: gpu}}\n',
            "{dataset: true, list: [1]}",
            "seds=3",
        )
    message = str(caught.value)
    for part in (
        "there is no variable $dataste (did you mean 'dataset'?)",
        "steps.b c: a step's name",
        "cannot run another recipe",
        "needs 'z', which is no step",
        "two steps are called 'a'",
        "No closing quotation",
        "slurm.partion: unknown (did you mean 'partition'?)",
        "vars.dataset = True is neither text nor a number; put it in quotes",
        "vars.list = [1]",
        "--with 'seds=3': not one of dataset, list",
    ):
        assert part in message, part


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("schema: 2\ntitle: t\nsteps: []\n", "schema = 2"),
        ("schema: 1\nsteps: []\n", "title is missing"),
        ("schema: 1\ntitle: t\nsteps: []\n", "steps is empty"),
        ("schema: 1\ntitle: t\nsteps: [{name: a, rum: x}]\n", "unknown key 'steps.0.rum' (did you mean 'run'?)"),
        ("[1]\n", "not a mapping"),
        ("schema: 1\ntitle: !!python/object:os.system x\nsteps: []\n", "cannot read"),
    ],
)
def test_wrong_files_say_what_is_wrong(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        recipes.load(tmp_path / "r.yaml")
    assert part in str(caught.value)


def test_steps_that_need_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="need each other: a, b"):
        load(tmp_path, "  - {name: a, run: extract d, needs: b}\n  - {name: b, run: extract d, needs: a}\n")


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("extrat ucf-crime", "unknown verb 'extrat' (did you mean 'extract'?)"),
        ("runs tabel", "unknown verb 'tabel' (did you mean 'table'?)"),
        ("runs", "unknown verb ''"),
        ("train ucf-crime --sseds 3", "--seeds"),
        ("train ucf-crime --seeds many", "'--seeds': Input should be a valid integer"),
        ("train ufc-crime", "did you mean 'ucf-crime'"),
        ("train ucf-crime --method mil-rnk", "did you mean 'mil-rank'"),
        ("train ucf-crime --method fine-vad --set optim.lrr=1", "unknown key 'optim.lrr'"),
        ("train ucf-crime --method fine-vad --set optim.lr=fast", "optim.lr = 'fast'"),
        ("train ucf-crime --method fine-vad --preset nowhere", "no preset 'nowhere'"),
        ("extract ucf-crime --encoder motoin", "did you mean 'motion'"),
        ("eval --metric aux", "unknown metric 'aux'"),
        ("train --help", "only prints help"),
    ],
)
def test_a_command_is_checked_by_its_own_parser(tmp_path: Path, command: str, part: str) -> None:
    recipe = load(tmp_path, f"  - {{name: a, run: '{command}'}}\n")
    (problem,) = problems_of(ROOT, recipe)
    assert part in problem


def test_all_wrong_commands_are_told_by_name_and_nothing_runs(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", "  - {name: a, run: extrat x}\n  - {name: b, run: train ufc --method mil-rnk}\n")
    done = vad("run", path, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert [text in done.stderr for text in ("'extrat'", "'ufc'", "'mil-rnk'")] == [True] * 3
    assert not (tmp_path / "vad_runs").exists()


def test_the_dry_run_shows_the_graph_and_writes_nothing(tmp_path: Path) -> None:
    done = vad("run", "main-job", "--with", "seeds=5", "--dry-run", "--json", cwd=tmp_path)
    answer: dict[str, Any] = json.loads(done.stdout)
    steps = {step["name"]: step for step in answer["steps"]}
    assert answer["variables"]["seeds"] == "5" and steps["eval"]["needs"] == ["train"]
    assert steps["train"]["argv"][-2:] == ["--seeds", "5"]
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_no_recipe(tmp_path: Path) -> None:
    done = vad("run", "main-jop", cwd=tmp_path)
    assert done.returncode == 4 and "did you mean 'main-job'" in done.stderr and "vad run ls" in done.stderr
