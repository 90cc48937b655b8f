"""What somebody would write around ONNX Runtime instead: the same rankings, from the same version's files, in Python.

It does for `POST /v1/rank` what `deepfm serve` does: XXH3 ids as README's "Feature ids" says (of fields that are categorical, and
values that are strings), rows of an id by one look-up, the context's part of the score once a request. Rows are gathered within
the graph, which ONNX Runtime runs on one thread; what is a loop over values here is what Python has to do whatever runs the model.

    application.py VERSION-DIRECTORY < bodies > answers     scores with numpy alone: what the tests hold against our scorer
"""
import json, pathlib, struct, sys
import numpy as np, safetensors.numpy, xxhash


class Version:
    """The files of a full version."""

    def __init__(self, directory):
        directory = pathlib.Path(directory)
        self.manifest = json.loads((directory / "manifest.json").read_text())
        self.tensors = safetensors.numpy.load_file(directory / "model.safetensors")
        shape = self.manifest["architecture"]
        if (self.manifest["kind"], shape["parts"], shape["mlp"]["activation"]) != ("full", "deepfm", "relu"):
            raise ValueError("only full versions of a DeepFM with relu are scored here")
        self.dimension, self.bias = shape["embedding_dim"], float(self.tensors["bias"][0]) + shape["logit_offset"]
        if any(field["kind"] != "categorical" for field in self.manifest["fields"]):
            raise ValueError("only categorical fields are scored here")
        self.fields = [field["name"] for field in self.manifest["fields"]]

    def with_zeros(self, name):  # Ids without a row get the last one, of zeros.
        rows = self.tensors[name].reshape(len(self.tensors["feature_ids"]), -1)
        return np.concatenate([rows, np.zeros((1, rows.shape[1]), np.float32)])

    def layers(self):  # (weight [outputs, inputs], bias) of each layer.
        count = len(self.manifest["architecture"]["mlp"]["layers"])
        return [(self.tensors[f"mlp.{layer}.weight"], self.tensors[f"mlp.{layer}.bias"]) for layer in range(count)]


class Encoder:
    """From features to numbers of rows. `context` of the fields are the context's, the others the candidates'."""

    def __init__(self, version, context):
        # Numpy's search among sorted ids: with a million rows a dict of integers takes twice as long, for want of cache.
        self.ids = version.tensors["feature_ids"]
        prefixes = [(name, struct.pack("<I", len(name.encode())) + name.encode()) for name in version.fields]
        self.context_fields, self.candidate_fields = prefixes[:context], prefixes[context:]

    def encode(self, context, candidates):
        """int64 `[context fields]` and `[candidates, candidate fields]`."""
        digest, fields = xxhash.xxh3_64_intdigest, self.candidate_fields
        ids = [digest(prefix + context[name].encode()) if name in context else None for name, prefix in self.context_fields]
        ids += [
            digest(prefix + candidate[name].encode()) if name in candidate else None
            for candidate in candidates
            for name, prefix in fields
        ]
        rows = self.rows(ids)
        return rows[: len(self.context_fields)], rows[len(self.context_fields) :].reshape(len(candidates), len(fields))

    def rows(self, ids):
        """The row of each id; that of zeros for one without, and for none."""
        missing = len(self.ids)
        without = [place for place, id in enumerate(ids) if id is None] if None in ids else []
        for place in without:
            ids[place] = 0
        ids = np.array(ids, dtype=np.uint64)
        rows = np.searchsorted(self.ids, ids)
        rows[self.ids[np.minimum(rows, missing - 1)] != ids] = missing
        rows[without] = missing
        return rows


class Onnx:
    """The score as a graph, context once: probabilities `[candidates]`."""

    def __init__(self, version, context):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        model = graph(version, context).SerializeToString()
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def score(self, context, candidates):
        return self.session.run(["probability"], {"context": context, "candidates": candidates})[0]


def graph(version, context):
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = [], []

    def constant(name, array):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(kind, inputs, output, **attributes):
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    # Linear weight and embedding side by side: one miss of the cache for both.
    table = constant("table", np.concatenate([version.with_zeros("linear"), version.with_zeros("embeddings")], axis=1))
    parts = constant("parts", np.array([1, version.dimension], np.int64))

    def gathered(ids):  # Weights and embeddings of rows.
        rows = node("Gather", [table, ids], f"{ids}_rows")
        outputs = [f"{ids}_weights", f"{ids}_embeddings"]
        nodes.append(helper.make_node("Split", [rows, parts], outputs, axis=-1))
        return outputs

    layers, split = version.layers(), context * version.dimension
    zero, one, both = (constant(name, np.array(axes, np.int64)) for name, axes in (("0", [0]), ("1", [1]), ("12", [1, 2])))
    flat = constant("flat", np.array([0, (len(version.fields) - context) * version.dimension], np.int64))
    flat_context = constant("flat_context", np.array([1, split], np.int64))
    # The context's part, once.
    weights, rows = gathered("context")
    context_sum = node("ReduceSum", [rows, zero], "context_sum", keepdims=1)
    context_squares = node("ReduceSumSquare", [rows, constant("01", np.array([0, 1], np.int64))], "context_squares", keepdims=0)
    context_linear = node("ReduceSum", [weights], "context_linear", keepdims=0)
    first, first_bias = layers[0]
    inputs = node("Reshape", [rows, flat_context], "context_inputs")
    hidden = node("Gemm", [inputs, constant("first_context", first[:, :split].T), constant("first_bias", first_bias)], "context_hidden")
    # Each candidate's.
    weights, rows = gathered("candidates")
    inputs = node("Reshape", [rows, flat], "inputs")
    hidden = node("Relu", [node("Gemm", [inputs, constant("first", first[:, split:].T), hidden], "h0")], "a0")
    for number, (weight, bias) in enumerate(layers[1:], 1):
        layer = [hidden, constant(f"weight{number}", weight.T), constant(f"bias{number}", bias)]
        hidden = node("Relu", [node("Gemm", layer, f"h{number}")], f"a{number}")
    mlp = node("MatMul", [hidden, constant("output", version.tensors["mlp.output"])], "mlp")
    total = node("Add", [node("ReduceSum", [rows, one], "sums", keepdims=0), context_sum], "total")
    squares = node("Add", [node("ReduceSumSquare", [rows, both], "own", keepdims=0), context_squares], "squares")
    twice = node("Sub", [node("ReduceSumSquare", [total, one], "square", keepdims=0), squares], "twice")
    pairs = node("Mul", [twice, constant("half", np.float32(0.5))], "pairs")
    own = node("ReduceSum", [weights, both], "linear_sum", keepdims=0)
    shared = node("Add", [context_linear, constant("bias", np.float32(version.bias))], "shared")
    logit = node("Add", [node("Add", [node("Add", [own, shared], "l0"), pairs], "l1"), mlp], "logit")
    node("Sigmoid", [logit], "probability")
    given = [
        helper.make_tensor_value_info("context", TensorProto.INT64, [context]),
        helper.make_tensor_value_info("candidates", TensorProto.INT64, ["N", len(version.fields) - context]),
    ]
    out = [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N"])]
    made = helper.make_graph(nodes, "deepfm", given, out, constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


class Numpy:
    """The same without ONNX Runtime."""

    def __init__(self, version, context):
        self.table, self.linear = version.with_zeros("embeddings"), version.with_zeros("linear")
        self.layers, self.output, self.bias = version.layers(), version.tensors["mlp.output"], version.bias

    def score(self, context, candidates):
        ids = np.concatenate([np.broadcast_to(context, (len(candidates), len(context))), candidates], axis=1)
        rows = self.table[ids]
        pairs = 0.5 * ((rows.sum(axis=1) ** 2).sum(axis=1) - (rows**2).sum(axis=(1, 2)))
        hidden = rows.reshape(len(rows), -1)
        for weight, bias in self.layers:
            hidden = np.maximum(hidden @ weight.T + bias, 0)
        logit = self.bias + self.linear[ids].sum(axis=(1, 2)) + pairs + hidden @ self.output
        return 1 / (1 + np.exp(-logit))


class Application:
    """Answers bodies of `POST /v1/rank`."""

    def __init__(self, directory, context, engine, loads, dumps):
        version = Version(directory)
        self.encoder, self.engine = Encoder(version, context), engine(version, context)
        self.loads, self.dumps = loads, dumps
        self.number = version.manifest["version"]

    def answer(self, body):
        request = self.loads(body)
        scores = self.engine.score(*self.encoder.encode(request["context"], request["candidates"]))
        return self.dumps({"version": self.number, "scores": scores.tolist()})


if __name__ == "__main__":
    application = Application(sys.argv[1], int(sys.argv[2]), Numpy, json.loads, json.dumps)
    for body in sys.stdin:
        print(application.answer(body))
