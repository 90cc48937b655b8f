"""Scores impressions with a version, from nothing but its directory: README.md, "Formats", in code.

    python scorer.py VERSION-DIRECTORY < features.jsonl > probabilities

A delta is applied on top of the versions that it stands on, which lie beside it.
Each line of the input is the features object of an impression. Needs numpy, safetensors and xxhash (from PyPI).
"""
import bisect, decimal, json, math, os, pathlib, struct, sys
import numpy as np, safetensors.numpy, xxhash


def text(value):  # What a value is called: 21, 21.0 and "21" are one.
    if isinstance(value, (str, bool)):
        return value if isinstance(value, str) else str(value).lower()
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return str(value)
    digits = format(decimal.Decimal(repr(float(value) or 0.0)), "f")
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def scaled(scaling, weights):  # The weights of an object.
    if scaling == "log":
        return [math.copysign(math.log1p(abs(w)), w) for w in weights]
    norm = {"l1": sum(map(abs, weights)), "l2": math.sqrt(sum(w * w for w in weights)), "raw": 1.0}[scaling]
    return [w / norm for w in weights]


def entries(field, value):  # (feature id, weight) of each value of a field.
    if "numeric" in field["kind"] and str(value).lower() in ("na", "n/a", "nan", "null", "-"):
        value = None
    if "numeric" in field["kind"] and value not in (None, ""):
        edges, x = field["kind"]["numeric"]["edges"], float(value)
        log_bucket = int(math.copysign(math.floor(4 * math.log(1 + abs(x))), x))
        value = log_bucket if edges is None else bisect.bisect_right(edges, x)
    if isinstance(value, dict):
        given = {key: float(np.float32(w)) for key, w in value.items() if key != "" and w}
        pairs = zip(given, scaled(field["kind"]["multi"]["weights"], given.values()))
    else:
        pairs = ((v, 1) for v in (value if isinstance(value, list) else [value]))
    name = field["name"].encode()
    for value, weight in pairs:
        if value not in (None, "") and weight:
            yield xxhash.xxh3_64_intdigest(struct.pack("<I", len(name)) + name + text(value).encode()), np.float32(weight)


def load(path):  # The tensors of a file; rows may be in 16 bits.
    return {name: tensor.astype(np.float32) if tensor.dtype == np.float16 else tensor
            for name, tensor in safetensors.numpy.load_file(path).items()}


def applied(delta, before):  # The tensors of a version from what has changed, and its parent's.
    ids = np.concatenate([delta["feature_ids"], delta["removed_ids"]])
    kept, rows = ~np.isin(before["feature_ids"], ids), ("feature_ids", "linear", "embeddings")
    merged = {name: np.concatenate([before[name][kept], delta[name]]) for name in rows}
    order = np.argsort(merged["feature_ids"])
    return {name: tensor for name, tensor in delta.items() if name != "removed_ids"} | {
        name: tensor[order] for name, tensor in merged.items()}


def digest(tensors):  # Of all weights: each manifest has it.
    rows = zip(tensors["feature_ids"], tensors["linear"], tensors["embeddings"])
    hashes = (xxhash.xxh3_128_intdigest(id.tobytes() + linear.tobytes() + row.tobytes()) for id, linear, row in rows)
    layers = sorted(name for name in tensors if name.startswith("mlp.") and name != "mlp.output")
    layers.sort(key=lambda name: (int(name.split(".")[1]), name.endswith("bias")))
    dense = ["bias", *layers, *(["mlp.output"] if "mlp.output" in tensors else [])]
    whole = xxhash.xxh3_128_intdigest(b"".join(tensors[name].tobytes() for name in dense))
    return f"{(whole + sum(hashes)) % 2**128:032x}"


class Version:
    def __init__(self, directory):
        directory, links = pathlib.Path(directory).resolve(), []
        while True:
            manifest = json.loads((directory / "manifest.json").read_text())
            links.append((directory, manifest))
            if manifest["kind"] == "full":
                break
            parent = manifest["parent"]
            directory = directory.parent / f"{parent['version']}-{parent['manifest_digest'][:12]}"
        self.manifest, self.tensors = links[0][1], load(directory / "model.safetensors")
        for directory, _ in reversed(links[:-1]):
            self.tensors = applied(load(directory / "delta.safetensors"), self.tensors)
        if "weights" in self.manifest and digest(self.tensors) != self.manifest["weights"]["digest"]:
            raise ValueError(f"the weights of version {self.manifest['version']} are not those that its manifest digests")

    def logit(self, features):
        shape, tensors = self.manifest["architecture"], self.tensors
        sums, logit = [], float(tensors["bias"][0]) + shape["logit_offset"]
        for field in self.manifest["fields"]:
            sums.append(np.zeros(shape["embedding_dim"]))
            for id, weight in entries(field, features.get(field["name"])):
                row = np.searchsorted(tensors["feature_ids"], np.uint64(id))
                if row < len(tensors["feature_ids"]) and tensors["feature_ids"][row] == id:
                    logit += weight * tensors["linear"][row]
                    sums[-1] += weight * tensors["embeddings"][row]
        if shape["parts"] != "linear":
            logit += sum(np.dot(sums[f], sum(sums[:f])) for f in range(1, len(sums)))
        if shape["parts"] == "deepfm" and shape["mlp"]["layers"]:
            act = {"relu": lambda h: np.maximum(h, 0), "leaky_relu": lambda h: np.where(h > 0, h, 0.01 * h),
                   "tanh": np.tanh, "sigmoid": lambda h: 1 / (1 + np.exp(-h))}[shape["mlp"]["activation"]]
            hidden = np.concatenate(sums)
            for layer in range(len(shape["mlp"]["layers"])):
                hidden = act(tensors[f"mlp.{layer}.weight"] @ hidden + tensors[f"mlp.{layer}.bias"])
            logit += tensors["mlp.output"] @ hidden
        return float(logit)


if __name__ == "__main__":
    version = Version(sys.argv[1])
    try:
        for line in sys.stdin:
            print(1 / (1 + math.exp(-version.logit(json.loads(line)))))
        sys.stdout.flush()
    except BrokenPipeError:  # Whoever reads has had enough (`| head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
