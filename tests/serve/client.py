#!/usr/bin/env python3
"""The published client tritonclient[http], unchanged, against a server that is running.

    client.py HOST:PORT MODEL [--inputs IN.npz --expected OUT.npz] [--shape NAME=1,3,224,224 ...]

Without --inputs the inputs are made up; axes of no fixed size are 1 then, or what --shape says. With --expected the
outputs are compared with those of the file, element by element, within 1e-4 of the largest. Prints a line for all that
holds, and ends with status 1 at what does not.
"""

import argparse
import sys

import numpy as np
import tritonclient.http as http
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

BINARY_ONLY = ("FP16", "BF16")


def ok(what):
    print(f"OK {what}")


def check(holds, what):
    if not holds:
        sys.exit(f"FAILED {what}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--inputs")
    parser.add_argument("--expected")
    parser.add_argument("--shape", action="append", default=[])
    return parser.parse_args()


def made_up(metadata, shapes):
    rng = np.random.default_rng(7)
    arrays = {}
    for tensor in metadata["inputs"]:
        shape = shapes.get(tensor["name"], [1 if size < 0 else size for size in tensor["shape"]])
        kind = tensor["datatype"]
        if kind == "BYTES":
            array = np.full(shape, "text, \u00e9 \"quoted\"".encode(), dtype=np.object_)
        elif kind == "BOOL":
            array = rng.integers(0, 2, shape).astype(bool)
        elif kind == "BF16" or kind.startswith("FP"):
            array = rng.standard_normal(shape).astype(triton_to_np_dtype(kind))
        else:
            array = rng.integers(0, 2, shape).astype(triton_to_np_dtype(kind))
        arrays[tensor["name"]] = array
    return arrays


def inputs_of(metadata, arrays, binary):
    made = []
    for tensor in metadata["inputs"]:
        array = arrays[tensor["name"]]
        made.append(http.InferInput(tensor["name"], list(array.shape), tensor["datatype"]))
        made[-1].set_data_from_numpy(array, binary_data=binary or tensor["datatype"] in BINARY_ONLY)
    return made


def outputs_of(metadata, binary):
    return [
        http.InferRequestedOutput(tensor["name"], binary_data=binary or tensor["datatype"] in BINARY_ONLY)
        for tensor in metadata["outputs"]
    ]


def arrays_of(metadata, result):
    arrays = {tensor["name"]: result.as_numpy(tensor["name"]) for tensor in metadata["outputs"]}
    # The client gives strings as text where they came in JSON, and as bytes where they came in binary form.
    as_bytes = np.vectorize(lambda string: string.encode() if isinstance(string, str) else string, otypes=[object])
    return {name: as_bytes(array) if array.dtype == np.object_ else array for name, array in arrays.items()}


def same(left, right):
    return all(left[name].shape == right[name].shape and np.array_equal(left[name], right[name]) for name in left)


def documents(client, model):
    check(client.is_server_live(), "the server is live")
    check(client.is_server_ready(), "the server is ready")
    check(client.is_model_ready(model), "the model is ready")
    check(client.is_model_ready(model, "1"), "version 1 of the model is ready")
    check(not client.is_model_ready(model, "2"), "there is no version 2")
    check(not client.is_model_ready("no such model"), "there are no other models")
    ok("live and ready")
    server = client.get_server_metadata()
    check({"binary_tensor_data", "model_configuration", "statistics"} <= set(server["extensions"]), "extensions")
    ok(f"server {server['name']} {server['version']}")
    metadata = client.get_model_metadata(model)
    check(metadata["name"] == model and metadata["versions"] == ["1"], "metadata")
    ok("metadata")
    config = client.get_model_config(model)
    names = lambda document, side: [tensor["name"] for tensor in document[side]]
    check(names(config, "input") == names(metadata, "inputs"), "inputs of the configuration")
    check(names(config, "output") == names(metadata, "outputs"), "outputs of the configuration")
    dims = [len(tensor["dims"]) + (config["max_batch_size"] > 0) for tensor in config["input"]]
    check(dims == [len(tensor["shape"]) for tensor in metadata["inputs"]], "axes of the configuration")
    ok("configuration")
    return metadata


def inference(client, model, metadata, arrays):
    binary = client.infer(model, inputs_of(metadata, arrays, True), outputs=outputs_of(metadata, True))
    reference = arrays_of(metadata, binary)
    ok("infer, all in binary form")
    inputs = inputs_of(metadata, arrays, True)
    defaults = client.infer(model, inputs, request_id="seven", timeout=60_000_000, priority=1)
    check(same(reference, arrays_of(metadata, defaults)), "all outputs where none is named")
    response = defaults.get_response()
    check((response["id"], response["model_name"], response["model_version"]) == ("seven", model, "1"), "echoes")
    ok("infer, no output named, with an id, a timeout and a priority")
    in_json = client.infer(model, inputs_of(metadata, arrays, False), outputs=outputs_of(metadata, False))
    check(same(reference, arrays_of(metadata, in_json)), "JSON and binary give equal numbers")
    ok("infer, all in JSON")
    mixed = client.infer(model, inputs_of(metadata, arrays, False), outputs=outputs_of(metadata, True))
    check(same(reference, arrays_of(metadata, mixed)), "JSON in and binary out give equal numbers")
    last = outputs_of(metadata, True)[-1:]
    one = client.infer(model, inputs_of(metadata, arrays, True), outputs=last)
    check([output["name"] for output in one.get_response()["outputs"]] == [last[0].name()], "one output alone")
    ok("infer, one output of those there are")
    for packing in ("gzip", "deflate"):
        packed = client.infer(
            model,
            inputs_of(metadata, arrays, True),
            outputs=outputs_of(metadata, True),
            request_compression_algorithm=packing,
            response_compression_algorithm=packing,
        )
        check(same(reference, arrays_of(metadata, packed)), f"packed as {packing}")
    ok("infer, packed as gzip and as deflate")
    wanted = outputs_of(metadata, True)
    waiting = [client.async_infer(model, inputs_of(metadata, arrays, n % 2 == 0), outputs=wanted) for n in range(32)]
    check(all(same(reference, arrays_of(metadata, one.get_result())) for one in waiting), "32 at once")
    ok("async_infer, 32 at once")
    return reference


def refused(client, what, model, inputs, outputs, words):
    try:
        client.infer(model, inputs, outputs=outputs)
    except InferenceServerException as error:
        text = f"{error.status()} {error.message()}"
        check(all(word in text for word in words), f"{what}: {words} in {text}")
        return
    sys.exit(f"FAILED {what} was not refused")


def errors(client, model, metadata, arrays):
    good = lambda: inputs_of(metadata, arrays, True)
    first = metadata["inputs"][0]
    refused(client, "an unknown model", "no such model", good(), None, ["404", "no such model"])
    refused(client, "an unknown output", model, good(), [http.InferRequestedOutput("nowhere")], ["400", "nowhere"])
    refused(client, "a missing input", model, good()[1:], None, ["400", first["name"]])
    refused(client, "an input twice", model, good() + good()[:1], None, ["400", first["name"], "twice"])
    wrong = good()
    wrong[0].set_shape([3] + wrong[0].shape())
    refused(client, "another rank", model, wrong, None, ["400", first["name"], "expected shape", "[3,"])
    other = "INT8" if first["datatype"] != "INT8" else "UINT8"
    wrong = good()
    array = np.zeros(arrays[first["name"]].shape, dtype=triton_to_np_dtype(other))
    wrong[0] = http.InferInput(first["name"], list(array.shape), other)
    wrong[0].set_data_from_numpy(array)
    refused(client, "another type", model, wrong, None, ["400", first["name"], first["datatype"], other])
    for ask in (client.get_model_metadata, client.get_model_config, client.get_inference_statistics):
        try:
            ask("no such model")
        except InferenceServerException as error:
            check("404" in str(error.status()), "an unknown model's status")
        else:
            sys.exit("FAILED an unknown model has no documents")
    ok("errors name what is wrong")


def statistics(client, model, answered):
    one = client.get_inference_statistics(model)["model_stats"]
    check([m["name"] for m in one] == [model], "statistics of one model")
    stats = one[0]["inference_stats"]
    check(stats["success"]["count"] >= answered, "every good request is counted")
    check(set(stats) >= {"success", "fail", "queue", "compute_input", "compute_infer", "compute_output"}, "phases")
    check(all(set(batch) >= {"batch_size", "compute_infer"} for batch in one[0]["batch_stats"]), "batches")
    check(model in [m["name"] for m in client.get_inference_statistics()["model_stats"]], "statistics of all models")
    ok("statistics")


def compared(reference, path):
    expected = np.load(path)
    for name in expected.files:
        found, wanted = reference[name], expected[name]
        check(found.shape == wanted.shape, f"{name}: expected shape {wanted.shape}, found {found.shape}")
        if wanted.dtype.kind == "f":
            apart = float(np.max(np.abs(found - wanted), initial=0.0))
            bound = 1e-4 * max(1.0, float(np.max(np.abs(wanted), initial=0.0)))
            check(apart <= bound, f"{name}: {apart} apart where {bound} is allowed")
        else:
            check(np.array_equal(found, wanted), f"{name} differs")
    ok("outputs are those expected")


def main():
    given = arguments()
    shapes = {name: [int(size) for size in dims.split(",")] for name, dims in (s.split("=") for s in given.shape)}
    with http.InferenceServerClient(given.url, concurrency=4) as client:
        metadata = documents(client, given.model)
        arrays = dict(np.load(given.inputs)) if given.inputs else made_up(metadata, shapes)
        reference = inference(client, given.model, metadata, arrays)
        errors(client, given.model, metadata, arrays)
        statistics(client, given.model, 39)
        if given.expected:
            compared(reference, given.expected)


main()
