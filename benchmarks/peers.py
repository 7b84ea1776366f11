"""Compare SeeSAE with its peers on this machine: the training step, the quality after the same work, the dashboards.

    python benchmarks/peers.py [--rounds 5] [--only saelens,dictionary_learning,saedashboard]

Every peer runs in an environment of its own under `.peers/`. Ours and a peer's steps alternate, each in a process that
stays alive, so that a machine that slows down slows both. Results go to `benchmarks/results/` and into the table of
`benchmarks/README.md`.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from report import machine, write_table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SCRIPTS = HERE / "peers"
OURS = "seesae"
PEERS = ("saelens", "dictionary_learning", "saedashboard")

D_SAE, K, BATCH = 8192, 32, 2048
WARMUP_SHARE, DECAY_SHARE = 0.05, 0.2
LR = 2.26e-3
"""Learning rate when all sides train at one: ours for a run of 128 steps (`sae_core.training.config.default_lr`)."""
ARCHITECTURES = {
    "topk": ("saelens", "dictionary_learning"),
    "batchtopk": ("saelens", "dictionary_learning"),
    "standard": ("saelens",),
    "jumprelu": ("saelens",),
}
"""Architectures and the peers that train them here."""
WITH_QUALITY = ("topk", "batchtopk")
"""Architectures that end with the same number of active features, so that explained variance can be compared."""
DASHBOARD_SAES = {"batchtopk": "JumpReLU, from BatchTopK", "topk": "TopK"}
"""The first SAEDashboard can encode for a few features alone, the second only whole for every batch of features."""
WARMUP_STEPS = 3
RATE_STEPS = 4
"""Steps per round if quality is not measured."""

TARGETS = {"step": 4.0, "product": 0.5, "dashboard": 200.0, "explained variance": 0.005}


class Child:
    """A script in one environment, kept alive: it gets one command per line and answers each with a line of JSON."""

    def __init__(self, python: Path, script: str, settings: Mapping[str, Any], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.script, self.log = script, log
        with log.open("w", encoding="utf-8") as errors:
            self.process = subprocess.Popen(
                [python, SCRIPTS / script, json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"},
            )
        self.versions: dict[str, str] = self._answer()["versions"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def ask(self, command: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            tail = "\n".join(self.log.read_text(encoding="utf-8").splitlines()[-15:])
            raise SystemExit(f"{self.script} ended without an answer. The end of {self.log}:\n{tail}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def environment(peer: str, work: Path, torch_index: str | None) -> Path:
    """The Python of the peer's environment, built if its pins have changed since."""
    folder, pins = work / peer, SCRIPTS / f"{peer}.txt"
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    torch = next(line for line in constraints if line.startswith("torch=="))
    wanted = hashlib.sha256((torch + pins.read_text(encoding="utf-8")).encode()).hexdigest()
    python, mark = folder / "bin" / "python", folder / ".built"
    if mark.exists() and mark.read_text(encoding="utf-8") == wanted:
        return python
    notify(f"building the environment of {peer}")
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # First, so that a peer's own requirements cannot bring another build of it.
    subprocess.run([*pip, torch, *(["--index-url", torch_index] if torch_index else [])], check=True)
    subprocess.run([*pip, torch, "--requirement", pins], check=True)
    # Some peer's requirement brings PyPI's torchvision, which breaks beside a PyTorch for CPUs; nothing here needs it.
    subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision"], check=True)
    mark.write_text(wanted, encoding="utf-8")
    return python


def train(
    architecture: str, recipe: str, pythons: Mapping[str, Path], settings: Mapping[str, Any], args: argparse.Namespace
) -> dict[str, Any]:
    """Measure rates of the training step, round by round; then the rest of the run and its quality, if asked for."""
    quality = architecture in WITH_QUALITY and not args.rates_only
    steps = args.samples // BATCH
    each = (steps - WARMUP_STEPS) // args.rounds if quality else RATE_STEPS
    settings = {
        **settings,
        "architecture": architecture,
        "recipe": recipe,
        "samples": args.samples,
        "steps": steps,
        "warmup_steps": int(WARMUP_SHARE * steps),
        "decay_steps": int(DECAY_SHARE * steps),
    }
    with ExitStack() as stack:
        children = {}
        for name in (OURS, *(peer for peer in ARCHITECTURES[architecture] if peer in pythons)):
            log = args.work / "logs" / f"{architecture}-{recipe}-{name}.log"
            script = "train_ours.py" if name == OURS else f"train_{name}.py"
            children[name] = stack.enter_context(Child(pythons[name], script, settings, log))
        if architecture == "topk":
            log = args.work / "logs" / "product.log"
            product = Child(pythons[OURS], "train_ours.py", {**settings, "recipe": "product"}, log)
            children["product"] = stack.enter_context(product)
        for child in children.values():
            child.ask(f"go {WARMUP_STEPS}")
        before = os.getloadavg()[0]
        rounds = alternate(children, each, args.rounds)
        result: dict[str, Any] = {
            "architecture": architecture,
            "recipe": recipe,
            "steps_a_round": each,
            "load": [before, os.getloadavg()[0]],
            "rates": {name: spread([answer["rate"] for answer in rounds[name]]) for name in children},
            "versions": {name: child.versions for name, child in children.items()},
        }
        if quality:
            left = steps - WARMUP_STEPS - each * args.rounds
            result |= {"samples": args.samples, "quality": {}}
            for name, child in children.items():
                if name != "product":
                    if left:
                        child.ask(f"go {left}")
                    result["quality"][name] = child.ask("evaluate")
    result["ratios"] = ratios(rounds, "rate")
    notify(f"{architecture}, {recipe}: {json.dumps(result['ratios'])} {json.dumps(result.get('quality'))}")
    return result


def dashboard(
    kind: str, pythons: Mapping[str, Path], settings: Mapping[str, Any], args: argparse.Namespace
) -> dict[str, Any]:
    """Rates of the features' statistics, in turn."""
    settings = {**settings, "sae": f"sae-{kind}"}
    with ExitStack() as stack:
        children = {
            name: stack.enter_context(
                Child(pythons[name], script, settings, args.work / "logs" / f"dashboard-{kind}-{name}.log")
            )
            for name, script in ((OURS, "dashboard_ours.py"), ("saedashboard", "dashboard_saedashboard.py"))
        }
        for child in children.values():
            child.ask("go 1")
        before = os.getloadavg()[0]
        answers = alternate(children, 1, args.rounds)
        load = [before, os.getloadavg()[0]]
        versions = {name: child.versions for name, child in children.items()}
    rates = {name: spread([answer["rate"] for answer in answers[name]]) for name in answers}
    for name in answers:
        rates[f"{name}, with forward"] = spread([answer["rate_with_forward"] for answer in answers[name]])
    result = {
        "sae": DASHBOARD_SAES[kind],
        "load": load,
        "rates": rates,
        "ratios": ratios(answers, "rate"),
        "ratios_with_forward": ratios(answers, "rate_with_forward"),
        "rounds": answers,
        "versions": versions,
    }
    notify(f"dashboard, {kind}: {json.dumps(result['ratios'])} {json.dumps(result['ratios_with_forward'])}")
    return result


def alternate(children: Mapping[str, Child], turns: int, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Every round's mean answer to `go 1`, which every child gets in turn, so that all of them meet the same load."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in children}
    for number in range(rounds):
        taken: dict[str, list[dict[str, Any]]] = {name: [] for name in children}
        for _ in range(turns):
            for name, child in children.items():
                taken[name].append(child.ask("go 1"))
        for name, parts in taken.items():
            # Each turn is the same work, so that the harmonic mean is the rate over all of them.
            means = {
                key: (statistics.harmonic_mean if key.startswith("rate") else statistics.fmean)(
                    [part[key] for part in parts]
                )
                for key in parts[0]
            }
            answers[name].append(means)
        rates = ", ".join(f"{name} {answers[name][-1]['rate']:,.0f}/s" for name in children)
        notify(f"  round {number + 1} of {rounds}: {rates} (load {os.getloadavg()[0]:.1f})")
    return answers


def put(runs: list[dict[str, Any]], run: dict[str, Any], key: Sequence[str]) -> None:
    """Add a comparison, or replace what it measured of an earlier one of the same thing."""
    for earlier in runs:
        if all(earlier[name] == run[name] for name in key):
            earlier.update(run)
            return
    runs.append(run)


def spread(values: Sequence[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": list(values)}


def ratios(answers: Mapping[str, Sequence[Mapping[str, Any]]], key: str) -> dict[str, dict[str, Any]]:
    """Ours over each other, round by round: neighbours in time met the same load."""
    ours = [answer[key] for answer in answers[OURS]]
    return {
        name: spread([mine / theirs[key] for mine, theirs in zip(ours, answers[name], strict=True)])
        for name in answers
        if name != OURS
    }


def table(results: Mapping[str, Any]) -> str:
    """Return the results in Markdown."""
    where = results["machine"]
    lines = [
        f"{results['date']}, {where['cpu']}, {where['cores']} cores, {results['threads']} threads a side.\n"
        "Rates are the rounds' medians (least–most); ratios are taken within a round.",
        "",
        "| training step, samples/s | recipe | rate | SeeSAE ÷ this | target | load |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for run in results["training"]:
        load = "–".join(f"{value:.1f}" for value in run["load"])
        fastest = min((run["ratios"][name]["median"] for name in run["ratios"] if name != "product"), default=None)
        for name, rate in run["rates"].items():
            ratio, target = run["ratios"].get(name), ""
            if name == "product":
                target = f"≥ {TARGETS['product']}: {met(ratio['median'] >= TARGETS['product'])}"
            elif ratio and ratio["median"] == fastest:
                target = f"≥ {TARGETS['step']:.0f}: {met(fastest >= TARGETS['step'])}"
            title = "x W_enc alone" if name == "product" else title_of(run, name)
            lines.append(
                f"| {run['architecture']}: {title} | {run['recipe']} | {show(rate)} | {show_ratio(ratio)} | {target} "
                f"| {load} |"
            )
    compared = [run for run in results["training"] if "quality" in run]
    if compared:
        lines += [
            "",
            "| quality, held-out | recipe | samples | explained variance | L0 | SeeSAE − this |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
    for run in compared:
        ours = run["quality"][OURS]["explained_variance"]
        for name, quality in run["quality"].items():
            value = quality["explained_variance"]
            difference = "" if name == OURS else f"{ours - value:+.4f}"
            lines.append(
                f"| {run['architecture']}: {title_of(run, name)} | {run['recipe']} | {run['samples']:,} | {value:.4f} "
                f"| {quality['l0']:.1f} | {difference} |"
            )
    if results["dashboards"]:
        lines += ["", *dashboard_table(results["dashboards"])]
    return "\n".join(lines)


def dashboard_table(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| features' statistics, token·features/s | SAE | rate | ÷ SAEDashboard | target | load |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    return lines + [row for run in runs for row in dashboard_rows(run)]


def dashboard_rows(run: Mapping[str, Any]) -> list[str]:
    rows = []
    load = "–".join(f"{value:.1f}" for value in run["load"])
    of_rate = {
        OURS: run["ratios"]["saedashboard"],
        f"{OURS}, with forward": run["ratios_with_forward"]["saedashboard"],
    }
    for name, rate in run["rates"].items():
        ratio, target = of_rate.get(name), ""
        if ratio:
            target = f"≥ {TARGETS['dashboard']:.0f}: {met(ratio['median'] >= TARGETS['dashboard'])}"
        title = name.replace(OURS, "SeeSAE").replace("saedashboard", "SAEDashboard")
        rows.append(f"| {title} | {run['sae']} | {show(rate)} | {show_ratio(ratio)} | {target} | {load} |")
    return rows


def title_of(run: Mapping[str, Any], name: str) -> str:
    packages = {OURS: OURS, "saelens": "sae-lens", "dictionary_learning": "dictionary-learning"}
    titles = {OURS: "SeeSAE", "saelens": "SAELens", "dictionary_learning": "dictionary_learning"}
    return f"{titles[name]} {run['versions'][name][packages[name]]}"


def show(rate: Mapping[str, Any]) -> str:
    return f"{figure(rate['median'])} ({figure(rate['min'])}–{figure(rate['max'])})"


def show_ratio(ratio: Mapping[str, Any] | None) -> str:
    return "" if ratio is None else f"{ratio['median']:.3g}× ({ratio['min']:.3g}–{ratio['max']:.3g})"


def figure(value: float) -> str:
    return f"{value:.2e}" if value >= 1e5 else f"{value:,.0f}"


def met(condition: bool) -> str:
    return "met" if condition else "missed"


def notify(text: str) -> None:
    print(text, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(PEERS), help="peers to compare with")
    parser.add_argument("--architectures", default=",".join(ARCHITECTURES))
    parser.add_argument("--recipes", default="same,own", help="same: one rate and schedule; own: each one's defaults")
    parser.add_argument("--samples", type=int, default=262_144, help="of a training run whose quality is measured")
    parser.add_argument("--rates-only", action="store_true", help="measure no quality, in a quarter of the time")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--activations", type=Path, help="safetensors with `train` and `held_out`; made otherwise")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=PYTHON", help="use this environment")
    parser.add_argument("--work", type=Path, default=ROOT / ".peers", help="folder of environments, data and logs")
    parser.add_argument("--torch-index", help="package index to take PyTorch from")
    return parser.parse_args()


def main() -> None:
    args = parse()
    args.work = args.work.resolve()
    chosen = args.only.split(",")
    if unknown := set(chosen) - set(PEERS):
        raise SystemExit(f"There is no peer {', '.join(unknown)}. Choose from {', '.join(PEERS)}.")
    given = dict(pair.split("=", 1) for pair in args.env)
    pythons = {
        peer: Path(given[peer]) if peer in given else environment(peer, args.work, args.torch_index) for peer in chosen
    }
    pythons[OURS] = Path(sys.executable)
    data = args.work / "data"
    activations = (args.activations or data / "activations.safetensors").resolve()
    wanted = {"activations": str(activations)}
    if "saedashboard" in chosen:
        wanted["dashboard"] = str(data / "dashboard")
    if any(not Path(path).exists() for path in wanted.values()):
        notify("preparing activations" + (" and SAEs" if "dashboard" in wanted else ""))
        subprocess.run([sys.executable, SCRIPTS / "data.py", json.dumps(wanted)], check=True)
    settings = {**wanted, "threads": args.threads, "batch_size": BATCH, "d_sae": D_SAE, "k": K, "lr": LR}
    results: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "threads": args.threads,
        "shape": {"d_sae": D_SAE, "k": K, "batch": BATCH, "lr_of_same": LR},
        "targets": TARGETS,
        "dashboards": [],
        "training": [],
    }
    out = HERE / "results" / f"{results['machine']['slug']}-{results['date']}.json"
    out.parent.mkdir(exist_ok=True)
    if out.exists():  # results that this run does not measure again stay
        earlier = json.loads(out.read_text(encoding="utf-8"))
        results |= {name: earlier[name] for name in ("dashboards", "training")}

    def save() -> None:
        """After each comparison, so that a run that is cut off leaves what it has."""
        out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        write_table("peers", table(results))

    if "saedashboard" in chosen:
        for kind in DASHBOARD_SAES:
            put(results["dashboards"], dashboard(kind, pythons, settings, args), ("sae",))
            save()
    for recipe in args.recipes.split(","):
        for architecture in args.architectures.split(","):
            peers = [peer for peer in ARCHITECTURES[architecture] if peer in chosen]
            # Without a quality to compare, other hyperparameters would only repeat the rates.
            if peers and (recipe == "same" or architecture in WITH_QUALITY):
                run = train(architecture, recipe, pythons, settings, args)
                put(results["training"], run, ("architecture", "recipe"))
                save()
    notify(f"{out.relative_to(ROOT)} and the table in {(HERE / 'README.md').relative_to(ROOT)} are written.")


if __name__ == "__main__":
    main()
