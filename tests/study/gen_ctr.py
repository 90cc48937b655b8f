#!/usr/bin/env python3
"""A click stream with a known click probability, as event files: twenty one-hot fields, a linear part, pairs of factors and a
small net, and drift on demand. Needs numpy.

    logit(t) = bias + diurnal(t) + sum_f w_f[id_f](t) + sum_{f<g} <v_f[id_f](t), v_g[id_g](t)> + net(factors of a few fields)

With --drift slow or fast the weights of every third field turn between two independent draws, the factors of every fourth
rotate, ids of the large fields are replaced at their own random times, and the base rate swings with the day.

    gen_ctr.py --out DIR --n 1000000 --drift none

writes impressions.jsonl, clicks.jsonl (a second after their impression) and truth.json: the log loss of the true probabilities
over the last fifth, and that of a constant. With --arrays it also writes what the lines say as plain little-endian arrays:
ids.i32 [n, 20], labels.u8 [n] and probabilities.f64 [n]. --rate is the events a second of event time; nothing else depends on it.
With --closed an impression without features follows a minute later, so that the windows of all others are over.
"""
import argparse
import json
import os

import numpy as np

RANK, ZIPF, FIELDS, TILT = 4, 1.1, 20, 0.15
CLICK_RATE, START_MS = 0.05, 1_700_000_000_000
LINEAR, PAIRS, NET = 0.7, 0.9, 0.6


def log_loss(y, p):
    return float(-np.mean(np.where(y == 1, np.log(p), np.log1p(-p))))


def scaled(x, deviation):
    x = x - x.mean()
    return x / x.std() * deviation


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--drift", choices=["none", "slow", "fast"], default="none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=2.0)
    parser.add_argument("--arrays", action="store_true")
    parser.add_argument("--closed", action="store_true")
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    n, drift = given.n, {"none": 0.0, "slow": 1.0, "fast": 3.0}[given.drift]
    vocabularies = np.unique(np.round(np.geomspace(10, 1_000_000, FIELDS)).astype(np.int64))
    rng.shuffle(vocabularies)
    through = (np.arange(n) + 0.5) / n
    times = START_MS + np.cumsum(rng.exponential(1000.0 / given.rate, n)).astype(np.int64)

    ids = np.empty((n, FIELDS), np.int64)
    linear, sums, squares, kept = np.zeros(n), np.zeros((n, RANK), np.float32), np.zeros(n, np.float32), {}
    net_fields = list(np.argsort(vocabularies)[: 3 * FIELDS // 4 : FIELDS // 8][:6])
    for f in range(FIELDS):
        size = int(vocabularies[f])
        popularity = np.cumsum(1.0 / np.power(np.arange(1, size + 1) + 2.7, ZIPF))
        slot = np.minimum(np.searchsorted(popularity / popularity[-1], rng.random(n)), size - 1).astype(np.int64)
        if drift and size >= 20_000:
            generations = int(np.ceil(drift * 2)) + 1
            born = rng.random(size)
            row = slot + size * np.floor(through * (generations - 1) + born[slot]).astype(np.int64)
            rows = size * (generations + 1)
        else:
            row, rows = slot, size
        ids[:, f] = rng.permutation(rows)[row]
        scale = np.float32((size / 10) ** -TILT)
        weights = (rng.standard_normal(rows).astype(np.float32) * scale)[row].astype(np.float64)
        if drift and f % 3 == 0:
            others = rng.standard_normal(rows).astype(np.float32) * scale
            angle = 0.5 * np.pi * drift * through
            weights = weights * np.cos(angle) + others[row] * np.sin(angle)
        linear += weights
        factors = rng.standard_normal((rows, RANK)).astype(np.float32)[row] * scale
        if drift and f % 4 == 1:
            angle = (0.5 * np.pi * drift * through * (1 + (f // 4) * 0.5)).astype(np.float32)
            cosine, sine = np.cos(angle), np.sin(angle)
            for k in range(0, RANK, 2):
                x, z = factors[:, k].copy(), factors[:, k + 1].copy()
                factors[:, k], factors[:, k + 1] = cosine * x - sine * z, sine * x + cosine * z
        sums += factors
        squares += (factors * factors).sum(1)
        if f in net_fields:
            kept[f] = factors

    pairs = 0.5 * ((sums.astype(np.float64) ** 2).sum(1) - squares)
    inputs = np.concatenate([kept[f] for f in sorted(kept)], axis=1)
    hidden = rng.standard_normal((inputs.shape[1], 8)).astype(np.float32) / np.sqrt(inputs.shape[1]) * 2.0
    net = np.tanh(inputs @ hidden) @ rng.standard_normal(8)
    logits = scaled(linear, LINEAR) + scaled(pairs, PAIRS) + scaled(net, NET)
    if drift:
        logits = logits + 0.2 * np.sin(2 * np.pi * (times / 1000.0) / 86400.0)
    low, high = -15.0, 5.0
    for _ in range(60):
        bias = 0.5 * (low + high)
        if np.mean(1 / (1 + np.exp(-(logits + bias)))) > CLICK_RATE:
            high = bias
        else:
            low = bias
    p = 1 / (1 + np.exp(-(logits + low)))
    y = (rng.random(n) < p).astype(np.uint8)

    os.makedirs(given.out, exist_ok=True)
    with open(f"{given.out}/impressions.jsonl", "w") as impressions, open(f"{given.out}/clicks.jsonl", "w") as clicks:
        for at in range(n):
            features = ",".join(f'"f{f:02d}":"{ids[at, f]}"' for f in range(FIELDS))
            impressions.write(f'{{"impression_id":"i{at}","event_time":{times[at]},"features":{{{features}}}}}\n')
        if given.closed:
            impressions.write(f'{{"impression_id":"end","event_time":{times[-1] + 60_000},"features":{{}}}}\n')
        for at in np.flatnonzero(y):
            clicks.write(f'{{"impression_id":"i{at}","event_time":{times[at] + 1000}}}\n')
    if given.arrays:
        ids.astype("<i4").tofile(f"{given.out}/ids.i32")
        y.tofile(f"{given.out}/labels.u8")
        p.astype("<f8").tofile(f"{given.out}/probabilities.f64")
    cut = n * 4 // 5
    truth = {
        "best_possible": log_loss(y[cut:], p[cut:]),
        "constant": log_loss(y[cut:], np.full(n - cut, y[:cut].mean())),
        "click_rate": float(y.mean()),
    }
    with open(f"{given.out}/truth.json", "w") as file:
        json.dump(truth, file)
    print(json.dumps(truth))


if __name__ == "__main__":
    main()
