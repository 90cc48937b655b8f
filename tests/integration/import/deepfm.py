"""The usual DeepFM of PyTorch tutorials, in numpy: an embedding and a linear weight for each value of each field, an MLP over the
concatenation, trained with Adagrad. Writes what a PyTorch user would save: `state_dict` names, Adagrad's sums, vocabularies;
and rows of features with the logits of the saved weights.

    python deepfm.py DIRECTORY
"""
import json, pathlib, sys
import numpy as np, safetensors.numpy

DIM, HIDDEN, RATE, SIZES = 4, [8, 5], 0.05, {"user": 60, "item": 30, "price": 6}
out, random = pathlib.Path(sys.argv[1]), np.random.default_rng(7)
params = {"bias": np.zeros(1)}
for field, size in SIZES.items():
    params[f"embedding.{field}.weight"] = random.normal(0, 0.3, (size, DIM))
    params[f"linear.{field}.weight"] = random.normal(0, 0.1, (size, 1))
widths = [DIM * len(SIZES), *HIDDEN, 1]
for layer, (inputs, outputs) in enumerate(zip(widths, widths[1:])):  # As in Sequential(Linear, ReLU, Linear, ReLU, Linear).
    params[f"mlp.{2 * layer}.weight"] = random.normal(0, 1 / np.sqrt(inputs), (outputs, inputs))
    params[f"mlp.{2 * layer}.bias"] = np.zeros(outputs)
sums = {name: np.zeros_like(value) for name, value in params.items()}


def forward(params, row):
    embeddings = [params[f"embedding.{field}.weight"][i] for field, i in zip(SIZES, row)]
    total, hidden, states = sum(embeddings), np.concatenate(embeddings), []
    pairs = 0.5 * np.sum(total**2 - sum(e**2 for e in embeddings))
    for layer in range(len(widths) - 1):
        states.append(hidden)
        hidden = params[f"mlp.{2 * layer}.weight"] @ hidden + params[f"mlp.{2 * layer}.bias"]
        if layer < len(HIDDEN):
            hidden = np.maximum(hidden, 0)
    linear = sum(params[f"linear.{field}.weight"][i, 0] for field, i in zip(SIZES, row))
    return params["bias"][0] + linear + pairs + hidden[0], embeddings, total, states


def step(row, label):
    logit, embeddings, total, states = forward(params, row)
    error = 1 / (1 + np.exp(-logit)) - label
    gradient, gradients = np.array([error]), {"bias": np.array([error])}
    for layer in reversed(range(len(widths) - 1)):
        gradients[f"mlp.{2 * layer}.weight"], gradients[f"mlp.{2 * layer}.bias"] = np.outer(gradient, states[layer]), gradient
        gradient = params[f"mlp.{2 * layer}.weight"].T @ gradient
        if layer > 0:
            gradient = gradient * (states[layer] > 0)
    for number, (field, i) in enumerate(zip(SIZES, row)):
        whole = np.zeros_like(params[f"embedding.{field}.weight"])
        whole[i] = error * (total - embeddings[number]) + gradient[number * DIM : (number + 1) * DIM]
        gradients[f"embedding.{field}.weight"] = whole
        whole = np.zeros_like(params[f"linear.{field}.weight"])
        whole[i] = error
        gradients[f"linear.{field}.weight"] = whole
    for name, gradient in gradients.items():
        sums[name] += gradient**2
        params[name] -= RATE * gradient / (np.sqrt(sums[name]) + 1e-10)


rows = [[random.integers(size) for size in SIZES.values()] for _ in range(3000)]
for user, item, price in rows:
    step((user, item, price), float((user % 5 == item % 5) + 0.2 * random.normal() > 0.5))
saved = {name: value.astype(np.float32) for name, value in params.items()}
accumulators = {name.removesuffix(".weight") + ".sum": sums[name].astype(np.float32)
                for name in sums if not name.startswith("mlp.")}
safetensors.numpy.save_file(saved | accumulators, out / "model.safetensors")
safetensors.numpy.save_file(saved, out / "without_sums.safetensors")
# The first row of a vocabulary is what PyTorch users pad with; items are numbers; prices are buckets.
vocabularies = {"user": [None, *(f"u{n}" for n in range(1, 60))], "item": list(range(30)), "price": list(range(6))}
(out / "vocabularies.json").write_text(json.dumps(vocabularies))
exact = {name: value.astype(np.float64) for name, value in saved.items()}
with (out / "rows.jsonl").open("w") as file:
    for user, item, price in rows[:400]:
        if user > 0:
            features = {"user": f"u{user}", "item": int(item), "price": float(price) + 0.5}
            print(json.dumps({"features": features, "logit": forward(exact, (user, item, price))[0]}), file=file)
