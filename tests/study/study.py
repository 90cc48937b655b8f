#!/usr/bin/env python3
"""The defaults, measured: log loss on the last fifth of several streams, for the untouched output of `config init` and for
settings around it. Prints a table in Markdown, a setting a row; regret is over the best of the row's peers.

    study.py --deepfm BINARY --work DIR [--data DIR] [--quick]

The streams: the simulator of gen_ctr.py without, with slow and with fast drift; `deepfm events simulate` with three seeds; and
the public sets under --data (movielens, ebnerd, openbandit) where they are. Each is learned once, `--labels immediate`, and the
public ones windowed as well.
"""
import argparse
import json
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))

# Keys that a setting overrides, through the environment; {} is what `config init` wrote.
SETTINGS = {
    "config init": {},
    "embedding alpha halved": {"OPTIMIZER__EMBEDDING__ALPHA": 0.5},
    "embedding alpha doubled": {"OPTIMIZER__EMBEDDING__ALPHA": 2.0},
    "embedding l2 5": {"OPTIMIZER__EMBEDDING__L2": "5.0"},
    "embedding l2 1": {"OPTIMIZER__EMBEDDING__L2": "1.0"},
    "batch_min 8": {"TRAINING__BATCH_MIN": "8"},
    "batch_max 64": {"TRAINING__BATCH_MAX": "64"},
    "n_max 100": {"TRAINING__N_MAX": "100.0"},
    "former defaults": {
        "OPTIMIZER__EMBEDDING__ALPHA": "0.1",
        "OPTIMIZER__EMBEDDING__L2": "1.0",
        "TRAINING__BATCH_MIN": "8",
    },
}


def run(arguments, **overrides):
    environment = dict(os.environ, **{f"DEEPFM__{key}": value for key, value in overrides.items()})
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(arguments)} ended with {done.returncode}\n{done.stderr}")
    return done.stdout


def streams(deepfm, work, data, quick):
    """Names of streams, their directories, and the policies under which each is learned."""
    events = 100_000 if quick else 1_000_000
    for drift in ("none", "slow", "fast"):
        directory = os.path.join(work, f"gen-{drift}-{events}")
        if not os.path.exists(os.path.join(directory, "truth.json")):
            run([sys.executable, os.path.join(HERE, "gen_ctr.py"), "--out", directory, "--n", str(events), "--drift", drift])
        yield f"simulated, drift {drift}", directory, ["immediate"]
    for seed in ("1",) if quick else ("1", "2", "3"):
        directory = os.path.join(work, f"demo-{seed}-{events // 5}")
        if not os.path.exists(os.path.join(directory, "clicks.jsonl")):
            run([deepfm, "events", "simulate", "--out", directory, "--count", str(events // 5), "--seed", seed])
        yield f"demo traffic, seed {seed}", directory, ["immediate"]
    for name in ("movielens", "ebnerd", "openbandit"):
        directory = os.path.join(data, name)
        if os.path.exists(os.path.join(directory, "impressions.jsonl")):
            yield name, directory, ["immediate", "windowed"]
        else:
            print(f"skipped: {name}: {directory} is absent", file=sys.stderr)


def overrides_of(setting, config):
    """Factors become values, against what `config init` wrote."""
    values = {}
    for key, value in setting.items():
        if isinstance(value, float):
            section = config.split("[optimizer.embedding]")[1]
            value = f"{value * float(re.search(r'^alpha = ([0-9.]+)', section, re.M).group(1)):.6g}"
        values[key] = value
    return values


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--deepfm", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--data", default="")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    os.makedirs(given.work, exist_ok=True)
    names = list(SETTINGS)
    print("| stream | labels | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 2) + "|", flush=True)
    regrets = {name: [] for name in names}
    for stream, directory, policies in streams(given.deepfm, given.work, given.data, given.quick):
        path = os.path.join(given.work, "study.toml")
        if os.path.exists(path):
            os.remove(path)
        run([given.deepfm, "config", "init", "--events", directory, "--out", path])
        with open(path) as file:
            config = file.read()
        for labels in policies:
            losses = {}
            for name, setting in SETTINGS.items():
                overrides = overrides_of(setting, config)
                # The streams span weeks at a few events a second: batches are cut by their size, as under production's load.
                overrides["TRAINING__BATCH_SPAN_MS"] = "86400000"
                backtest = [given.deepfm, "backtest", "--config", path, "--events", directory, "--labels", labels, "--json"]
                losses[name] = json.loads(run(backtest, **overrides))["last_fifth"]["log_loss"]
            best = min(losses.values())
            cells = [f"**{loss:.4f}**" if loss == best else f"{loss:.4f}" for loss in losses.values()]
            print(f"| {stream} | {labels} | " + " | ".join(cells) + " |", flush=True)
            for name, loss in losses.items():
                regrets[name].append(loss / best - 1)
    mean = [f"{100 * sum(all_of) / len(all_of):.2f} %" for all_of in regrets.values()]
    worst = [f"{100 * max(all_of):.2f} %" for all_of in regrets.values()]
    print("| mean regret | | " + " | ".join(mean) + " |")
    print("| worst regret | | " + " | ".join(worst) + " |")


if __name__ == "__main__":
    main()
