"""The stock client of the Open Inference Protocol against `deepfm serve`: address, then rows with the logits to expect."""
import json
import sys

import numpy as np
import tritonclient.http as http

address, expected = sys.argv[1], json.loads(sys.argv[2])
rows, logits, version = expected["rows"], np.array(expected["logits"]), expected["version"]

client = http.InferenceServerClient(url=address)
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("ctr")
assert client.is_model_ready("ctr", version)
assert client.get_server_metadata()["name"] == "deepfm-stream"
metadata = client.get_model_metadata("ctr")
assert metadata["versions"] == [version], metadata
assert client.get_model_repository_index() == [
    {"name": "ctr", "version": version, "state": "READY", "reason": "arm default"}
]


def tensor(name, values, binary):
    array = np.array(values, dtype=np.object_)
    given = http.InferInput(name, list(array.shape), "BYTES")
    given.set_data_from_numpy(array, binary_data=binary)
    return given


def columns(binary):
    return [tensor("user", [["u1"], [""]], binary), tensor("tags", [["a1", "b2"], ["a2", ""]], binary)]


def objects(binary):
    return [tensor("features", rows, binary)]


checked = 0
for inputs in (columns, objects):
    for binary_in in (False, True):
        for binary_out in (False, True):
            outputs = [http.InferRequestedOutput(name, binary_data=binary_out) for name in ("probability", "logit")]
            result = client.infer("ctr", inputs(binary_in), outputs=outputs, request_id="r1")
            answer = result.get_response()
            assert answer["id"] == "r1" and answer["model_version"] == version, answer
            assert answer["parameters"]["arm"] == "default", answer
            assert np.allclose(result.as_numpy("logit"), logits, rtol=1e-5, atol=1e-5), answer
            assert np.allclose(result.as_numpy("probability"), 1 / (1 + np.exp(-logits)), rtol=1e-5, atol=1e-5)
            checked += 1
# Without outputs the client asks for everything as binary.
assert np.allclose(client.infer("ctr", objects(True), model_version=version).as_numpy("logit"), logits, atol=1e-5)
try:
    client.infer("ctr", [tensor("hue", ["x"], True)])
    raise AssertionError("an unknown input was taken")
except http.InferenceServerException if hasattr(http, "InferenceServerException") else Exception as error:
    assert "there is no input" in str(error), error
print("ok", checked)
