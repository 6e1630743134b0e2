"""Scales, overrides and axes are patches; every variant is checked and knows where its values come from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dlpipe.spec.experiment import Pretrain
from dlpipe.spec.layers import Autoencoder, Rbm
from dlpipe.spec.loading import find_experiment, load
from dlpipe.spec.problems import Mark, SpecError
from dlpipe.spec.variants import LoadedExperiment, Variant
from tests.spec.conftest import BASE, EXAMPLE, Write

EXPERIMENTS = sorted((Path(__file__).parents[2] / "config" / "experiments").rglob("*.yaml"))


def messages(path: Path, **how: object) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load(path, **how)  # type: ignore[arg-type]
    return [problem.message for problem in caught.value.problems]


def variant(loaded: LoadedExperiment, **levels: str) -> Variant:
    return next(each for each in loaded.variants if each.levels == levels)


# The example of the documentation


def test_the_example_has_the_product_of_its_axes_in_file_order() -> None:
    loaded = load(EXAMPLE)
    assert (loaded.name, loaded.scale, loaded.seeds) == ("example", None, [0, 1, 2, 3, 4])
    assert [tuple(each.levels.values()) for each in loaded.variants] == [
        (pretraining, depth) for pretraining in ("rbm", "dae", "none") for depth in "1234"
    ]
    assert list(loaded.papers) == ["erhan2010"]


def test_the_example_at_its_scales() -> None:
    demo, lab, paper = (load(EXAMPLE, scale=scale) for scale in ("demo", "lab", "paper"))
    assert (demo.experiment.dataset.kind, demo.experiment.dataset.labelled, demo.seeds) == ("digits", 100, [0, 1, 2])
    assert lab.experiment == load(EXAMPLE).experiment
    # a value replaces: nothing is left of the file's own data set
    assert (paper.experiment.dataset.kind, paper.experiment.dataset.train, paper.experiment.dataset.labelled) == (
        "mnist",
        None,
        None,
    )
    assert len(paper.seeds) == 20
    assert all(each.experiment.dataset == demo.experiment.dataset for each in demo.variants)


def test_values_know_their_places() -> None:
    loaded = load(EXAMPLE, scale="demo", overrides=["finetune.duration.epochs=7"])
    dae = variant(loaded, pretraining="dae", depth="2")
    lines = EXAMPLE.read_text().splitlines()

    def place(line: int, text: str) -> Mark:
        return Mark(str(EXAMPLE), line, lines[line - 1].index(text) + 1)

    assert dae.where(("pretrain", "optimizer", "learning_rate")) == place(8, "0.05")
    assert dae.where(("pretrain", "layer", "corruption")) == place(16, "0.25")  # a level's patch
    assert dae.where(("model", "units")) == place(18, "[400, 400]")
    assert dae.where(("model", "units", 1)) == place(18, "400]}, 3")
    assert dae.where(("dataset", "labelled")) == place(21, "100")  # the scale's patch
    assert dae.where(("finetune", "duration", "epochs")) == Mark(
        "command line", 1, len("finetune.duration.epochs=") + 1
    )
    assert dae.where(("pretrain", 3, "optimizer", "momentum")) == place(8, "0.5}")  # one recipe for all layers
    assert dae.where(("pretrain", "layer", "tied")) is None  # a default
    assert dae.where(("dataset", "train")) is None  # replaced by the scale
    assert variant(loaded, pretraining="none", depth="2").where(("pretrain",)) == place(17, "null")
    assert loaded.where(("seeds",)) == place(21, "3}")
    assert loaded.where(("claims", 0, "against", "pretraining")) == place(29, "none")


def test_from_is_called_start_in_python(write: Write) -> None:
    write("axes: {depth: {3: {}, 1: {model.units: [4]}}}\n", name="first")
    base = BASE.split("pretrain")[0] + "from: {experiment: first, where: {depth: 1}}\n"
    loaded = load(write(BASE[BASE.index("finetune") :], base=base))
    assert loaded.variants[0].where(("start", "experiment")) == loaded.variants[0].where(("from", "experiment"))
    assert loaded.variants[0].where(("start",)) is not None


# Patches


def test_an_index_reaches_into_a_list(write: Write) -> None:
    loaded = load(write("axes: {rate: {low: {pretrain.2.optimizer.learning_rate: 1e-3}, high: {}}}\n"))
    recipes = variant(loaded, rate="low").experiment.pretrain
    assert isinstance(recipes, tuple)
    assert [recipe.optimizer.learning_rate for recipe in recipes] == [0.1, 0.1, 0.001]


def test_an_index_replaces_an_item(write: Write) -> None:
    loaded = load(write("axes: {width: {narrow: {model.units.1: 1}, wide: {}}}\n"))
    assert variant(loaded, width="narrow").experiment.model.layer_units == (4, 1, 2)


def test_a_value_replaces_and_does_not_merge(write: Write) -> None:
    loaded = load(write("axes: {rate: {a: {finetune.optimizer: {kind: sgd, learning_rate: 0.2}}, b: {}}}\n"))
    assert variant(loaded, rate="a").experiment.phases[0].optimizer.momentum == 0.0  # type: ignore[attr-defined]
    assert variant(loaded, rate="b").experiment.phases[0].optimizer.momentum == 0.5  # type: ignore[attr-defined]


def test_a_key_that_the_file_does_not_write_can_be_set(write: Write) -> None:
    loaded = load(write("axes: {dropout: {0: {}, 0.5: {model.dropout: 0.5}}}\n"))
    assert variant(loaded, dropout="0.5").experiment.model.dropout == 0.5  # type: ignore[attr-defined]


def test_null_takes_away_and_silences_patches_inside(write: Write) -> None:
    axes = "axes:\n  pretraining: {yes: {}, no: {pretrain: null}}\n  cd: {1: {}, 5: {pretrain.0.layer.cd_steps: 5}}\n"
    loaded = load(write(axes))
    assert variant(loaded, pretraining="no", cd="5").experiment.pretrain is None
    recipes = variant(loaded, pretraining="yes", cd="5").experiment.pretrain
    assert isinstance(recipes, tuple)
    assert isinstance(recipes[0].layer, Rbm)
    assert recipes[0].layer.cd_steps == 5


def test_null_erases_what_an_earlier_axis_has_set(write: Write) -> None:
    axes = "axes:\n  cd: {1: {}, 5: {pretrain.0.layer.cd_steps: 5}}\n  pretraining: {yes: {}, no: {pretrain: null}}\n"
    assert variant(load(write(axes)), cd="5", pretraining="no").experiment.pretrain is None


def test_a_null_of_the_file_itself_silences_nothing(write: Write) -> None:
    base = BASE.split("pretrain")[0] + "pretrain: null\n" + BASE[BASE.index("finetune") :]
    path = write("axes: {cd: {1: {model.units: [4]}, 5: {pretrain.layer.cd_steps: 5}}}\n", base=base)
    assert messages(path) == ["pretrain is null: it has no part 'layer'"]


def test_a_later_axis_reaches_into_what_an_earlier_one_has_set(write: Write) -> None:
    base = BASE[: BASE.index("pretrain")] + BASE[BASE.index("finetune") :]
    recipe = "{layer: {kind: autoencoder}, duration: {epochs: 1}, optimizer: {kind: sgd, learning_rate: 1}}"
    noise = "{0.1: {pretrain.layer.corruption: 0.1}, 0: {}}"
    axes = f"axes:\n  layer: {{dae: {{pretrain: {recipe}}}}}\n  noise: {noise}\n"
    recipe_of = variant(load(write(axes, base=base)), layer="dae", noise="0.1").experiment.pretrain
    assert isinstance(recipe_of, Pretrain)
    assert recipe_of.layer == Autoencoder(corruption=0.1)


def test_a_scale_may_replace_the_comparison(write: Write) -> None:
    path = write(
        "axes: {depth: {1: {model.units: [4]}, 3: {}}, seeded: {a: {}, b: {model.activation: tanh}}}\n"
        "skip: [{depth: 1, seeded: b}]\n"
        "claims: [{says: x, compare: {depth: 3}, with: {depth: 1}}]\n"
        "scales: {demo: {axes: {width: {2: {model.units: [2]}, 3: {}}}, skip: [], claims: [], seeds: 2}}\n"
    )
    assert len(load(path).variants) == 3
    demo = load(path, scale="demo")
    assert [each.levels for each in demo.variants] == [{"width": "2"}, {"width": "3"}]
    assert (demo.experiment.claims, demo.seeds) == ((), [0, 1])


def test_a_scale_sets_one_field_deep_down(write: Write) -> None:
    loaded = load(write("scales: {demo: {finetune.optimizer.learning_rate: 0.5}}\n"), scale="demo")
    assert loaded.experiment.phases[0].optimizer.learning_rate == 0.5
    assert len(loaded.variants) == 1
    assert loaded.variants[0].levels == {}


def test_skip_leaves_out_combinations(write: Write) -> None:
    axes = "axes:\n  a: {1: {}, 2: {model.units: [4]}, 3: {model.units: [3]}}\n  b: {x: {}, y: {model.dropout: 0.5}}\n"
    loaded = load(write(axes + "skip: [{a: [2, 3], b: y}, {a: 1, b: x}]\n"))
    assert [tuple(each.levels.values()) for each in loaded.variants] == [("1", "y"), ("2", "x"), ("3", "x")]


# Overrides


def test_overrides_are_yaml_and_come_after_the_scale(write: Write) -> None:
    path = write("scales: {demo: {seeds: 2, finetune.duration.epochs: 2}}\n")
    overrides = ["seeds=4", "finetune.duration={steps: 1_0}", "pretrain.1.optimizer.learning_rate=1e-3", "question=on"]
    steps = "finetune.duration.steps must be a whole number above 0, or null, not '1_0'"
    assert messages(path, overrides=overrides) == [steps]
    overrides[1] = "finetune.duration={steps: 10}"
    loaded = load(path, scale="demo", overrides=overrides)
    assert len(loaded.seeds) == 4
    assert loaded.experiment.phases[0].duration.steps == 10
    assert loaded.experiment.question == "on"
    assert load(path, scale="demo", overrides=["pretrain=null"]).experiment.pretrain is None


def test_an_axis_comes_after_an_override(write: Write) -> None:
    path = write("axes: {depth: {1: {model.units: [4]}, 3: {}}}\n")
    loaded = load(path, overrides=["model.units=[7, 7, 7]"])
    assert [each.experiment.model.layer_units for each in loaded.variants] == [(4,), (7, 7, 7)]


# What is checked


def test_levels_may_mean_the_same_in_some_variants(write: Write) -> None:
    axes = "axes:\n  cd: {1: {}, 5: {pretrain.0.layer.cd_steps: 5}}\n  pretraining: {yes: {}, no: {pretrain: null}}\n"
    assert len(load(write(axes)).variants) == 4


def test_a_default_written_out_changes_nothing(write: Write) -> None:
    path = write("axes: {dropout: {zero: {model.dropout: 0}, none: {}}}\n")
    assert messages(path) == ["no level of the axis 'dropout' changes anything"]


def test_one_level_that_changes_something_is_an_axis(write: Write) -> None:
    assert len(load(write("axes: {width: {1: {model.units: [1]}}}\n")).variants) == 1


def test_claims_are_checked_at_the_scales_where_they_are_judged(write: Write) -> None:
    more = (
        "axes: {depth: {1: {model.units: [4]}, 3: {}}}\n"
        "scales: {demo: {}, paper: {axes: {width: {1: {model.units: [1]}, 3: {}}}}}\n"
    )
    claim = "claims: [{says: x, compare: {depth: 3}, with: {depth: 1}, scales: [%s]}]\n"
    assert load(write(more + claim % "demo"), scale="demo")
    assert (
        messages(write(more + claim % "demo, paper"), scale="demo") == ["no axis is called 'depth' (scale paper)"] * 2
    )


def test_every_declared_scale_is_checked_whichever_is_asked_for(write: Write) -> None:
    path = write("scales: {demo: {}, lab: {seeds: 0}, paper: {model.units.9: 3}}\n")
    assert messages(path, scale="demo") == [
        "seeds must be a whole number above 0 and up to 1000, not 0",
        "model.units has no item 9",
    ]


def test_a_problem_of_some_variants_names_the_first(write: Write) -> None:
    path = write("axes: {depth: {3: {}, 4: {model.units: [1, 1, 1, 1]}}}\n")
    assert messages(path) == ["pretrain has 3 recipes for 4 layers (variant depth 4)"]


def test_a_sparsity_of_no_cost_is_a_level_among_others(write: Write) -> None:
    levels = "{plain: {pretrain.0.layer.sparsity_cost: 0.0}, sparse: {}}"
    sparse = BASE.replace("{kind: rbm}", "{kind: rbm, sparsity_target: 0.1, sparsity_cost: 0.1}")
    loaded = load(write(f"axes: {{sparsity: {levels}}}\n", base=sparse))
    layers = [each.experiment.recipe(0).layer for each in loaded.variants]
    assert [(layer.sparsity_target, layer.sparsity_cost) for layer in layers] == [(0.1, 0.0), (0.1, 0.1)]
    assert Rbm.model_validate(layers[0].model_dump(mode="json")) == layers[0]  # as a stage reads it


# Experiments by name


def test_experiments_are_found_by_name(write: Write, tmp_path: Path) -> None:
    root = tmp_path / "experiments"
    path, other = write(name="pretraining/depth"), write(name="convolution/vgg")
    assert find_experiment("depth", root) == path
    assert find_experiment("convolution/vgg", root) == other
    assert find_experiment(str(path), root) == path
    with pytest.raises(SpecError) as caught:
        find_experiment("dpeth", root)
    assert str(caught.value) == f"{root}: no experiment is called 'dpeth'\n    did you mean 'depth'?"
    write(name="attention/depth")
    with pytest.raises(SpecError) as caught:
        find_experiment("depth", root)
    assert str(caught.value) == (
        f"{root}: 2 experiments are called 'depth'\n    name one: attention/depth or pretraining/depth"
    )


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_experiments_that_come_along_are_sound_at_every_scale(path: Path) -> None:
    load(path)


def test_from_gives_the_one_variant_it_names(write: Write) -> None:
    axes = "axes: {depth: {1: {model.units: [4]}, 3: {}}, drop: {no: {}, yes: {model.dropout: 0.5}}}\n"
    write(axes + "scales: {demo: {seeds: 2}}\n", name="a/first")
    base = (
        BASE.split("pretrain")[0]
        + "from: {experiment: first, where: {depth: 1, drop: no}}\n"
        + BASE[BASE.index("finetune") :]
    )
    more = "axes: {start: {one: {}, three: {from.where.depth: 3}}}\nscales: {demo: {}, lab: {}}\n"
    path = write(more, name="b/second", base=base)
    for scale, expected in (("demo", "demo"), ("lab", None)):
        loaded = load(path, scale=scale)
        sources = [each.source for each in loaded.variants]
        assert all(source is not None and source[0].scale == expected for source in sources)
        assert [source[1].levels for source in sources if source] == [
            {"depth": "1", "drop": "no"},
            {"depth": "3", "drop": "no"},
        ]


def test_a_circle_of_from_is_a_problem(write: Write) -> None:
    rest = BASE[BASE.index("finetune") :]
    head = BASE.split("pretrain")[0]
    first = write(base=head + "from: {experiment: second}\n" + rest, name="first")
    write(base=head + "from: {experiment: first}\n" + rest, name="second")
    assert messages(first)[0].endswith("it would start from itself: first from second from first")


# Sizes and times


def test_more_than_ten_thousand_variants_are_refused(write: Write) -> None:
    levels = ", ".join(f"{n}: {{model.dropout: 0.{n}}}" for n in range(10, 32))
    axes = "axes:\n" + "".join(f"  a{n}: {{{levels}}}\n" for n in range(3))
    assert "the axes give 10,648 variants; at most 10,000 are possible" in messages(write(axes))
    axes = "axes:\n" + "".join(f"  a{n}: {{{levels}}}\n" for n in range(40))
    assert any("combinations" in message for message in messages(write(axes)))


def test_nothing_here_imports_torch() -> None:
    code = "import sys, dlpipe.spec.loading, dlpipe.spec.schema; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
