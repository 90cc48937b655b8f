"""Learners that ours is compared with: one online pass over a stream as arrays, on one thread, each example scored before it is
learned. They do what they are told on standard input, a line each, and answer with a line of JSON:

    learn FROM TO       learns these examples: {"seconds", "loss"}, the sum of the log losses of their scores
    export DIRECTORY    (torch) writes what `deepfm artifact import` takes, and the logits of some rows: {"rows"}

    learners.py torch|vw-linear|vw-pairs STREAM-DIRECTORY
"""
import json, pathlib, sys, time, warnings
import numpy as np

FIELDS, DIMENSION, LAYERS, BATCH = 20, 10, [64, 32], 512
PROBED = 1000


def log_losses(logits, labels):
    """Of float64 logits, without the rounding of a probability near 0 or 1."""
    return np.logaddexp(0.0, np.where(labels == 1, -logits, logits))


class Torch:
    """The DeepFM of PyTorch tutorials: one embedding and one linear weight for each value of each field in one table each, factors
    and an MLP over them, Adagrad with sparse gradients, batches of 512. Its rates and the sums that it begins with are the best of
    some dozen that were tried on this stream: with sums of 0, Torch's default, ids that are seen once cost it 0.006 of log loss, and
    SparseAdam as much."""

    def __init__(self, stream):
        import torch

        warnings.filterwarnings("ignore", "Sparse invariant checks")
        torch.set_num_threads(1)
        torch.manual_seed(1)
        self.torch, (ids, self.labels) = torch, stream
        # As users do it: a vocabulary of each field's values, and their numbers one behind the other in one table.
        self.vocabularies, rows, start = [], np.empty(ids.shape, np.int64), 0
        for field in range(FIELDS):
            values, numbers = np.unique(ids[:, field], return_inverse=True)
            rows[:, field] = numbers.reshape(-1) + start
            self.vocabularies.append(values)
            start += len(values)
        self.rows, self.targets = torch.from_numpy(rows), torch.from_numpy(self.labels.astype(np.float32))
        self.embedding = torch.nn.Embedding(start, DIMENSION, sparse=True)
        self.linear = torch.nn.Embedding(start, 1, sparse=True)
        torch.nn.init.normal_(self.embedding.weight, std=0.01)
        torch.nn.init.zeros_(self.linear.weight)
        self.bias = torch.nn.Parameter(torch.zeros(1))
        widths, layers = [FIELDS * DIMENSION, *LAYERS], []
        for inputs, outputs in zip(widths, widths[1:]):
            layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
        self.mlp = torch.nn.Sequential(*layers, torch.nn.Linear(widths[-1], 1))
        adagrad = torch.optim.Adagrad
        tables, dense = [self.embedding.weight, self.linear.weight], [self.bias, *self.mlp.parameters()]
        self.of_tables = adagrad(tables, lr=0.1, initial_accumulator_value=1e-4)
        self.of_dense = adagrad(dense, lr=0.02)
        self.loss = torch.nn.BCEWithLogitsLoss()

    def logits(self, rows):
        embedded = self.embedding(rows)
        total = embedded.sum(dim=1)
        pairs = 0.5 * (total.square().sum(dim=1) - embedded.square().sum(dim=(1, 2)))
        linear = self.linear(rows).sum(dim=(1, 2))
        return self.bias + linear + pairs + self.mlp(embedded.flatten(1)).squeeze(1)

    def learn(self, start, end):
        scores = []
        begun = time.perf_counter()
        for at in range(start, end, BATCH):
            batch = slice(at, min(at + BATCH, end))
            self.of_tables.zero_grad()
            self.of_dense.zero_grad()
            logits = self.logits(self.rows[batch])
            self.loss(logits, self.targets[batch]).backward()
            self.of_tables.step()
            self.of_dense.step()
            scores.append(logits.detach())
        seconds = time.perf_counter() - begun
        logits = self.torch.cat(scores).double().numpy()
        return {"seconds": seconds, "loss": float(log_losses(logits, self.labels[start:end]).sum())}

    def export(self, directory):
        import safetensors.torch

        directory, tensors, start = pathlib.Path(directory), {"bias": self.bias.detach()}, 0
        tables = [(name, table, self.of_tables.state[table.weight]["sum"])
                  for name, table in (("embedding", self.embedding), ("linear", self.linear))]
        tensors["bias.sum"] = self.of_dense.state[self.bias]["sum"]
        for field, values in enumerate(self.vocabularies):
            for name, table, sums in tables:
                rows = slice(start, start + len(values))
                tensors[f"{name}.f{field:02}.weight"] = table.weight.detach()[rows].clone()
                tensors[f"{name}.f{field:02}.sum"] = sums[rows].clone()
            start += len(values)
        for name, value in self.mlp.state_dict().items():
            tensors[f"mlp.{name}"] = value
        safetensors.torch.save_file(tensors, directory / "model.safetensors")
        names = {f"f{field:02}": values.tolist() for field, values in enumerate(self.vocabularies)}
        (directory / "vocabularies.json").write_text(json.dumps(names))
        with self.torch.no_grad():
            logits = self.logits(self.rows[-PROBED:]).double().numpy()
        (directory / "logits.json").write_text(json.dumps(logits.tolist()))
        return {"rows": start}


class VowpalWabbit:
    """Vowpal Wabbit with the updates of FTRL-Proximal, on examples that are parsed before it is timed; 2^22 weights."""

    ARGUMENTS = {"vw-linear": "--ftrl_alpha 0.1", "vw-pairs": "--ftrl_alpha 0.02 --quadratic ::"}

    def __init__(self, stream, name):
        import vowpalwabbit

        self.ids, self.labels = stream
        common = "--loss_function logistic --bit_precision 22 --quiet --no_stdin"
        self.vw = vowpalwabbit.Workspace(f"{common} --ftrl --ftrl_beta 1 {self.ARGUMENTS[name]}")

    def learn(self, start, end):
        texts = [
            ("1" if label else "-1") + "".join(f" |{chr(97 + field)} {value}" for field, value in enumerate(values))
            for values, label in zip(self.ids[start:end].tolist(), self.labels[start:end].tolist())
        ]
        examples = [self.vw.example(text) for text in texts]
        begun = time.perf_counter()
        learn, logits = self.vw.learn, []
        for example in examples:
            learn(example)
        seconds = time.perf_counter() - begun
        logits = np.array([example.get_simplelabel_prediction() for example in examples], np.float64)
        for example in examples:
            self.vw.finish_example(example)
        return {"seconds": seconds, "loss": float(log_losses(logits, self.labels[start:end]).sum())}


def read(directory):
    directory = pathlib.Path(directory)
    labels = np.fromfile(directory / "labels.u8", np.uint8)
    return np.fromfile(directory / "ids.i32", "<i4").reshape(len(labels), FIELDS).astype(np.int64), labels


if __name__ == "__main__":
    name, directory = sys.argv[1:]
    learner = Torch(read(directory)) if name == "torch" else VowpalWabbit(read(directory), name)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        match line.split(maxsplit=1):
            case ["learn", span]:
                answer = learner.learn(*map(int, span.split()))
            case ["export", directory]:
                answer = learner.export(directory.strip())
        print(json.dumps(answer), flush=True)
