"""The page and the verdicts: well-formed, self-contained, safe, reproducible, honest about what is missing."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dlpipe.artifacts import Store
from dlpipe.report.evidence import gather
from dlpipe.report.page import render
from dlpipe.stages import plot, report
from tests import synthetic
from tests.synthetic import Built, build

VOID = {"meta", "br", "img", "link", "input", "hr"}
CLOSED_BY_SLASH = {"path", "rect", "circle", "line", "use", "image"}


class Page(HTMLParser):
    """Elements, and every problem with how they are nested."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.problems: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        self.problems += [f"<{tag}> is not closed" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> at {self.getpos()} closes nothing")

    def values(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.elements if name in attributes]


def test_page_is_well_formed(built: Built) -> None:
    page = Page(built.page)
    assert page.problems == []
    counts = Counter(page.values("id"))
    assert [name for name, count in counts.items() if count > 1] == []
    for reference in (*page.values("aria-labelledby"), *(href[1:] for href in page.values("href") if href[0] == "#")):
        assert counts[reference] == 1, reference
    for style in re.findall(r"url\(#([^)]+)\)", built.page):
        assert counts[style] == 1, style


def test_page_asks_nothing_of_the_network(built: Built) -> None:
    page = Page(built.page)
    assert all(source.startswith("data:") for source in page.values("src"))
    assert "link" not in [tag for tag, _ in page.elements]
    for tag, attributes in page.elements:
        href = attributes.get("href") or "#"
        assert href.startswith("#") or tag == "a" or (tag == "image" and href.startswith("data:image/png"))
    assert "@import" not in built.page
    assert re.findall(r"url\((?!#)", built.page) == []
    policy = next(a["content"] or "" for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_policy_lets_just_this_script_run(built: Built) -> None:
    import base64
    import hashlib

    script = re.search(r"<script>(.*?)</script>", built.page, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in built.page


def test_page_says_what_it_must(built: Built) -> None:
    text = re.sub(r"<[^>]+>", " ", built.page)
    text = re.sub(r"\s+", " ", text)
    assert "Pretraining lowers the test error at depths 3 and 4." in text
    assert "✓ reproduced" in text
    assert "✗ not reproduced" in text
    assert "not judged at scale demo, only at paper: it is a number for MNIST with all of its labels" in text
    assert "7 % (± 1)" in text
    assert "Erhan et al. 2010" in text
    assert "20 stages of training instead of 32" in text
    assert "Test error (%) against validation error, of the same runs; at pretraining rbm, depth 3" in text
    assert "test error validation error gain (points)" in text
    assert "workstation (Made-up CPU)" in text
    for level in synthetic.PRETRAINING:
        assert built.page.count(f'<th scope="row">{level}</th>') >= 4


def test_every_number_is_the_judgements(built: Built) -> None:
    verdicts = json.loads(built.html.with_suffix(".json").read_text())
    for claim in verdicts["experiments"][0]["claims"]:
        assert claim["reason"] in built.page.replace("&#39;", "'")


def test_other_scales_are_marked_everywhere(built: Built) -> None:
    title = re.search(r"<title>(.*?)</title>", built.page)
    assert title is not None
    assert "demo scale" in title[1]
    badge = '<span class="scale"'
    headings = re.findall(r"<h[12][^>]*>.*?</h[12]>", built.page, re.DOTALL)
    assert [badge in heading for heading in headings] == [True, False, True, False]
    assert all(badge in caption for caption in re.findall(r"<figcaption>.*?</figcaption>", built.page, re.DOTALL))


def test_verdicts_are_machine_readable(built: Built) -> None:
    document = json.loads(built.html.with_suffix(".json").read_text())
    assert document["format"] == 1
    (experiment,) = document["experiments"]
    assert (experiment["name"], experiment["scale"], experiment["missing"]) == ("depth", "demo", [])
    verdicts = [claim["verdict"] for claim in experiment["claims"]]
    assert verdicts[0] == "reproduced"
    assert verdicts[3] == "not reproduced"
    assert verdicts[5] == "not judged"
    assert sum(document["summary"].values()) == len(verdicts)
    assert len(experiment["claims"][1]["parts"]) == 4


def test_check_judges_the_same(built: Built) -> None:
    document = json.loads(built.html.with_suffix(".json").read_text())
    judged = [(name, judgement.to_json()) for name, judgement in report.judge(built.plan, built.store)]
    assert judged == [("depth", claim) for claim in document["experiments"][0]["claims"]]


def test_same_bytes_elsewhere_from_metrics_and_figures_alone(built: Built, tmp_path: Path) -> None:
    for kind in ("metrics", "figures"):
        shutil.copytree(built.store.results / kind, tmp_path / "results" / kind)
    code = (
        "import sys; from pathlib import Path; from dlpipe.artifacts import Store; from dlpipe.plan import make_plan;"
        "from dlpipe.spec.loading import load; from dlpipe.stages import report;"
        "plan = make_plan([load(Path(sys.argv[1]), scale='demo')]); root = Path(sys.argv[2]);"
        "report.run(plan, Store(root / 'data', root / 'results'), root / 'demo.html');"
        "print([m for m in ('torch', 'matplotlib', 'scipy.stats', 'sklearn') if m in sys.modules])"
    )
    experiment = built.plan.experiments[0].loaded.path
    done = subprocess.run(
        [sys.executable, "-c", code, str(experiment), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
    assert (tmp_path / "demo.html").read_bytes() == built.html.read_bytes()
    assert (tmp_path / "demo.json").read_bytes() == built.html.with_suffix(".json").read_bytes()


def test_no_paths_of_this_machine(built: Built) -> None:
    everything = built.page + built.html.with_suffix(".json").read_text()
    assert str(built.store.results.parent) not in everything
    assert str(Path.home()) + "/" not in everything


ONE_FIGURE = synthetic.EXPERIMENT + "figures: [{kind: comparison}]\n"
HOSTILE = """<script>alert("x")</script><img src=//evil.example/x onerror=alert(1)>"""


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    experiment = (
        ONE_FIGURE.replace("title: Greedy layerwise", f"title: '{HOSTILE} Greedy")
        .replace("random initialisation\nquestion", "random initialisation'\nquestion")
        .replace("says: Pretraining lowers the test error at every depth.", f"says: '{HOSTILE}'")
        .replace("source: Erhan et al. 2010, figure 1", f"source: '{HOSTILE}'")
        .replace("because: it is", f"because: '{HOSTILE}' #")
    )
    page = Page(build(tmp_path, experiment).page)
    assert page.problems == []
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert "img" not in [tag for tag, _ in page.elements]
    assert page.values("onerror") == []


def test_hostile_axes_and_levels_stay_text(built: Built) -> None:
    evidence = gather(built.plan.experiments[0], built.store, print)
    hostile = {f"{HOSTILE} {n}": {} for n in range(len(evidence.variants))}

    def renamed(variants):  # type: ignore[no-untyped-def]
        named = zip(variants, hostile, strict=True)
        return tuple(dataclasses.replace(variant, levels={HOSTILE: level}) for variant, level in named)

    experiment = evidence.loaded.experiment.model_copy(update={"axes": {HOSTILE: hostile}})
    loaded = dataclasses.replace(evidence.loaded, experiment=experiment, variants=renamed(evidence.loaded.variants))
    page = Page(render([dataclasses.replace(evidence, loaded=loaded, variants=renamed(evidence.variants))]))
    assert page.problems == []
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert "img" not in [tag for tag, _ in page.elements]


def test_missing_runs_are_marked_and_make_claims_inconclusive(built: Built, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    shutil.copytree(built.store.results / "metrics", tmp_path / "results" / "metrics")
    lost = built.plan.experiments[0].variants[3].metrics[0]  # rbm, depth 4
    shutil.rmtree(tmp_path / "results" / "metrics" / lost)
    out = report.run(built.plan, Store(tmp_path / "data", tmp_path / "results"), tmp_path / "demo.html")
    document = json.loads(out.with_suffix(".json").read_text())
    assert document["experiments"][0]["missing"] == [lost, built.plan.experiments[0].figures]
    claim = document["experiments"][0]["claims"][0]
    assert (claim["verdict"], claim["reason"]) == ("inconclusive", "pretraining rbm, depth 4 has not been run")
    assert f"<code>{lost}</code>" in out.read_text()
    assert "(3 missing)" in out.read_text()
    assert lost in capsys.readouterr().err


def test_a_flipped_byte_is_found_and_not_used(built: Built, tmp_path: Path) -> None:
    store = Store(tmp_path / "data", tmp_path / "results")
    shutil.copytree(built.store.results, tmp_path / "results")
    hurt = built.plan.experiments[0].variants[0].metrics[0]
    path = store.folder("evaluate", hurt) / "metrics.csv"
    path.write_text(path.read_text().replace("test_error", "best_error", 1))
    out = report.run(built.plan, store, tmp_path / "demo.html")
    assert json.loads(out.with_suffix(".json").read_text())["experiments"][0]["missing"] == [hurt]
    assert not store.folder("evaluate", hurt).exists(), "it is set aside, so that the workflow makes it again"


def test_code_that_has_changed_since_is_named(built: Built, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "Today&#39;s code is not" not in built.page
    assert "Today's code is not" not in built.page
    monkeypatch.setattr("dlpipe.report.evidence.source_digests", lambda known: dict.fromkeys(known, "another"))
    page = report.run(built.plan, built.store, tmp_path / "demo.html").read_text()
    assert "Today's code is not what made this." in page
    assert "model.mlp" in page
    assert "layer.rbm" in page, "the layers' artifacts may be gone; the metrics tell what made them"


def test_two_experiments_share_and_say_so(tmp_path: Path) -> None:
    built = build(tmp_path, ONE_FIGURE, names=("depth", "again"))
    assert Page(built.page).problems == []
    text = re.sub(r"\s+", " ", built.page)
    assert "Of 64 stages of training, 20 had to run" in text
    assert "depth, again" in text
    ids = Page(built.page).values("id")
    assert len(ids) == len(set(ids))


def test_an_experiment_without_axes_claims_or_figures(tmp_path: Path) -> None:
    bare = synthetic.EXPERIMENT.partition("axes:")[0] + "seeds: 1\nscales:\n  demo: {}\n"
    built = build(tmp_path, bare)
    assert Page(built.page).problems == []
    assert "No experiment of this report makes a claim." in built.page
    assert json.loads(built.html.with_suffix(".json").read_text())["experiments"][0]["claims"] == []


def test_a_planted_script_in_a_figure_does_not_reach_the_page(built: Built, tmp_path: Path) -> None:
    store = Store(tmp_path / "data", tmp_path / "results")
    shutil.copytree(built.store.results / "metrics", tmp_path / "results" / "metrics")
    stage = built.plan.stages[built.plan.experiments[0].figures]
    with store.make(stage) as draft:
        (draft.folder / "01-x.svg").write_text(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9" onload="alert(1)"><script>alert(2)</script>'
            '<image href="https://evil.example/x.png"/><a href="javascript:alert(3)"><text>gone</text></a>'
            '<text style="fill: url(https://evil.example)">kept</text></svg>'
        )
        entry = {"file": "01-x.svg", "kind": "curves", "title": "T", "caption": "C"}
        (draft.folder / "figures.json").write_text(json.dumps([entry]))
    page = report.run(built.plan, store, tmp_path / "demo.html").read_text()
    assert "evil.example" not in page
    assert "alert(" not in page
    assert "gone" not in page
    assert "<text>kept</text>" in page


def test_plot_and_report_share_a_registry_of_kinds(built: Built) -> None:
    """What plot writes into its index, the page shows: one figure element for each entry."""
    artifact = built.store.read("plot", built.plan.experiments[0].figures)
    index = json.loads(artifact.path(plot.INDEX).read_text())
    assert built.page.count("<figure ") == len(index) == 8
