"""The stock gRPC client of the Open Inference Protocol against `deepfm serve`: address, then rows with the logits to expect."""
import json
import sys

import numpy as np
import tritonclient.grpc as grpc
from tritonclient.grpc import service_pb2

address, expected = sys.argv[1], json.loads(sys.argv[2])
rows, logits, version = expected["rows"], np.array(expected["logits"]), expected["version"]

client = grpc.InferenceServerClient(url=address)
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("ctr")
assert client.is_model_ready("ctr", version)
assert client.get_server_metadata().name == "deepfm-stream"
metadata = client.get_model_metadata("ctr", as_json=True)
assert metadata["versions"] == [version], metadata
assert [(one["name"], one["datatype"], one["shape"]) for one in metadata["inputs"]] == [
    ("user", "BYTES", ["-1", "-1"]), ("tags", "BYTES", ["-1", "-1"]), ("features", "BYTES", ["-1"]),
], metadata
index = client.get_model_repository_index(as_json=True)
assert index["models"] == [{"name": "ctr", "version": version, "state": "READY", "reason": "arm default"}], index


def tensor(name, values):
    array = np.array(values, dtype=np.object_)
    given = grpc.InferInput(name, list(array.shape), "BYTES")
    given.set_data_from_numpy(array)
    return given


def raw_input(kind):
    if kind == "columns":
        return [tensor("user", [["u1"], [""]]), tensor("tags", [["a1", "b2"], ["a2", ""]])]
    return [tensor("features", rows)]


def check(result, names):
    for name in names:
        wanted = logits if name == "logit" else 1 / (1 + np.exp(-logits))
        assert np.allclose(result.as_numpy(name), wanted, rtol=1e-5, atol=1e-5), result.get_response()


checked = 0
for kind in ("columns", "objects"):
    for names in (["probability", "logit"], ["logit"], []):
        outputs = [grpc.InferRequestedOutput(name) for name in names] or None
        result = client.infer("ctr", raw_input(kind), outputs=outputs, request_id="r1", parameters={"key": "k"})
        answer = result.get_response()
        assert (answer.id, answer.model_version) == ("r1", version), answer
        assert answer.parameters["arm"].string_param == "default", answer
        assert answer.parameters["version"].int64_param == int(version), answer
        check(result, names or ["probability", "logit"])
        checked += 1
check(client.infer("ctr", raw_input("objects"), model_version=version), ["logit"])

# Values in lists of their type, which the client never sends itself.
stub = client._client_stub


def typed(name, datatype, shape, **contents):
    made = service_pb2.InferTensorContents(**contents)
    return service_pb2.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape, contents=made)


def ask(*inputs, **more):
    return stub.ModelInfer(service_pb2.ModelInferRequest(model_name="ctr", inputs=inputs, **more))


texts = [
    typed("user", "BYTES", [2], bytes_contents=[b"u1", b""]),
    typed("tags", "BYTES", [2, 2], bytes_contents=[b"a1", b"b2", b"a2", b""]),
]
check(grpc.InferResult(ask(*texts)), ["logit", "probability"])
numbers = [("INT64", "int64_contents"), ("INT32", "int_contents"), ("UINT64", "uint64_contents"), ("UINT8", "uint_contents"),
           ("FP32", "fp32_contents"), ("FP64", "fp64_contents")]
of_numbers = [grpc.InferResult(ask(typed("user", kind, [1], **{field: [7]}))).as_numpy("logit") for kind, field in numbers]
as_text = grpc.InferResult(ask(typed("user", "BYTES", [1], bytes_contents=[b"7"]))).as_numpy("logit")
assert all(np.allclose(found, as_text) for found in of_numbers), (of_numbers, as_text)
checked += 1


def refused(status, words, *inputs, **more):
    try:
        ask(*inputs, **more)
    except Exception as error:
        assert error.code().name == status and words in error.details(), (error.code(), error.details())
        return
    raise AssertionError(f"it was taken: {words}")


one = typed("user", "BYTES", [1], bytes_contents=[b"u1"])
bare = service_pb2.ModelInferRequest.InferInputTensor(name="user", datatype="BYTES", shape=[1])
no_such = service_pb2.ModelInferRequest.InferRequestedOutputTensor(name="rank")
logit = service_pb2.ModelInferRequest.InferRequestedOutputTensor(name="logit")
for status, words, inputs, more in [
    ("INVALID_ARGUMENT", "there are no inputs", [], {}),
    ("INVALID_ARGUMENT", 'there is no input "hue"', [typed("hue", "BYTES", [1], bytes_contents=[b"x"])], {}),
    ("INVALID_ARGUMENT", 'datatype "FP16", which is not taken', [typed("user", "FP16", [1], bytes_contents=[b"x"])], {}),
    ("INVALID_ARGUMENT", "shape [-1], not [N] or [N, k]", [typed("user", "BYTES", [-1], bytes_contents=[b"x"])], {}),
    ("INVALID_ARGUMENT", "not [N] or [N, k]", [typed("user", "BYTES", [1, 1, 1], bytes_contents=[b"x"])], {}),
    ("INVALID_ARGUMENT", "which is too large", [typed("user", "BYTES", [3, 2**63 - 1], bytes_contents=[b"x"])], {}),
    ("INVALID_ARGUMENT", "has 4 rows, more than 3", [typed("user", "BYTES", [4], bytes_contents=[b"x"] * 4)], {}),
    ("INVALID_ARGUMENT", "has 1 values, its shape [2] has 2", [typed("user", "BYTES", [2], bytes_contents=[b"x"])], {}),
    ("INVALID_ARGUMENT", "another type than BYTES", [typed("user", "BYTES", [1], int_contents=[1])], {}),
    ("INVALID_ARGUMENT", "not of its datatype", [typed("user", "INT8", [1], int_contents=[128])], {}),
    ("INVALID_ARGUMENT", "not of its datatype", [typed("user", "UINT16", [1], uint_contents=[65536])], {}),
    ("INVALID_ARGUMENT", "not finite", [typed("user", "FP64", [1], fp64_contents=[float("nan")])], {}),
    ("INVALID_ARGUMENT", "not UTF-8", [typed("user", "BYTES", [1], bytes_contents=[b"\xff"])], {}),
    ("INVALID_ARGUMENT", "is there twice", [one, one], {}),
    ("INVALID_ARGUMENT", "there are 4 inputs, the model takes 3", [one] * 4, {}),
    ("INVALID_ARGUMENT", 'no output "rank"', [one], {"outputs": [no_such]}),
    ("INVALID_ARGUMENT", 'output "logit" is there twice', [one], {"outputs": [logit, logit]}),
    ("INVALID_ARGUMENT", "has no contents", [bare], {}),
    ("INVALID_ARGUMENT", "contents, and raw contents too", [one], {"raw_input_contents": [b"\1\0\0\0x"]}),
    ("INVALID_ARGUMENT", "2 raw contents for 1 inputs", [bare], {"raw_input_contents": [b"", b""]}),
    ("INVALID_ARGUMENT", "ends within a value", [bare], {"raw_input_contents": [b"\2\0\0\0x"]}),
    ("INVALID_ARGUMENT", "ends within a length", [bare], {"raw_input_contents": [b"\1\0\0\0x\0"]}),
    ("INVALID_ARGUMENT", "more values than the 1", [bare], {"raw_input_contents": [b"\1\0\0\0x" * 2]}),
    ("INVALID_ARGUMENT", "row 0: EOF", [typed("features", "BYTES", [1], bytes_contents=[b"{"])], {}),
    ("NOT_FOUND", 'version "8" is not served', [one], {"model_version": "8"}),
    ("NOT_FOUND", 'version "07" is not served', [one], {"model_version": "07"}),
]:
    refused(status, words, *inputs, **more)
    checked += 1


def status_of(call):
    try:
        call()
    except Exception as error:
        return error.code().name, error.details()
    raise AssertionError("it was taken")


raw = client._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
for body in (b"\xff" * 100, b"\x2a\xff\xff\xff\xff\x0f", b"\x0a\x01\xff"):
    code, details = status_of(lambda: raw(body))
    assert code == "INVALID_ARGUMENT" and "the request:" in details, (body, code, details)
# An empty tensor has two bytes, and an empty text.
code, details = status_of(lambda: raw(b"\x2a\x00" * 8193))
assert code == "INVALID_ARGUMENT" and "more than 8192 inputs" in details, details
code, details = status_of(lambda: raw(b" " * 100_001))
assert code in ("OUT_OF_RANGE", "RESOURCE_EXHAUSTED"), (code, details)
for path in ("/inference.GRPCInferenceService/ModelStatistics", "/other.Service/ModelInfer"):
    code, _ = status_of(lambda: client._channel.unary_unary(path)(b""))
    assert code == "UNIMPLEMENTED", (path, code)
code, _ = status_of(lambda: stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="other")))
assert code == "NOT_FOUND", code
# After all that the same connection scores.
check(grpc.InferResult(ask(*texts)), ["logit"])
print("ok", checked)
