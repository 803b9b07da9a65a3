"""Weights coded without loss, and bundles whose coded weights are damaged or lie."""

from __future__ import annotations

import json
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from codesign.bundle import BundleError, Contents, open_bundle, write_bundle
from codesign.coded import CODES, VALUES, decode, encode
from codesign.manifest import file_json, manifest_hash
from targets.target import host

rng = np.random.default_rng(0)


def clustered(shape, count, blocks=1):
    """float32 with ``count`` normal values, of their own for each of ``blocks`` leading parts."""
    values = rng.standard_normal((blocks, count)).astype(np.float32)
    codes = rng.integers(0, count, (blocks, int(np.prod(shape)) // blocks))
    return np.take_along_axis(values, codes, axis=1).reshape(shape)


def same(a, b):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert np.ascontiguousarray(a).tobytes() == b.tobytes()


def again(weights):
    arrays, coded = encode(weights)
    return {n: decode(arrays, n, coded[n]) if n in coded else arrays[n] for n in weights}


@settings(max_examples=20, deadline=None)
@given(
    count=st.sampled_from([1, 2, 16, 255, 256, 257]), blocks=st.integers(1, 3),
    rows=st.integers(1, 70),
)  # fmt: skip
def test_what_is_coded_comes_back_bit_by_bit(count, blocks, rows):
    w = clustered((blocks, rows, 33), count, blocks)
    w.flat[0] = -0.0
    w.flat[-1] = np.nan
    same(w, again({"w": w})["w"])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint32", "int32", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 4), (7,), (64, 65), (5, 1031)], ids=str)
def test_any_weight_comes_back(dtype, shape):
    w = (rng.standard_normal(shape) * 40).astype(dtype)
    weights = {"a": np.asarray(w), "b": w.T}
    for name, back in again(weights).items():
        same(weights[name], back)


def test_what_is_coded_takes_what_its_entropy_says():
    share = np.array([0.5, 0.25, 0.125, 0.125])
    codes = rng.choice(4, 40_000, p=share)
    w = np.array([0, 1, 2, 3], np.float32)[codes].reshape(200, 200)
    arrays, coded = encode({"w": w})
    assert coded == {"w": {"dtype": "float32", "shape": [200, 200]}}
    assert set(arrays) == {"w" + CODES, "w" + VALUES}
    bits = 8 * arrays["w" + CODES].nbytes / 40_000
    assert bits < 1.1 * -(share * np.log2(share)).sum()


def test_codebooks_of_single_blocks_are_found():
    w = clustered((40, 50, 32), 16, 40)
    arrays, coded = encode({"w": w})
    assert arrays["w" + VALUES].shape == (40, 16)
    assert sum(a.nbytes for a in arrays.values()) < 0.2 * w.nbytes
    same(w, decode(arrays, "w", coded["w"]))


@pytest.mark.parametrize(
    "weight",
    [
        rng.standard_normal((100, 100)).astype(np.float32),  # all different
        rng.integers(-128, 128, (100, 100), dtype=np.int8),  # all codes alike: nothing to gain
        clustered((3, 5), 2),  # too small
        np.arange(10_000, dtype=np.int32),
    ],
    ids=str,
)
def test_what_does_not_gain_is_stored_as_it_is(weight):
    arrays, coded = encode({"w": weight})
    assert coded == {}
    assert list(arrays) == ["w"]


def test_quantised_weights_shrink():
    codes = np.clip(np.rint(rng.standard_normal((300, 300)) * 30), -127, 127).astype(np.int8)
    arrays, coded = encode({"w": codes})
    assert coded["w"]["dtype"] == "int8"
    assert arrays["w" + CODES].nbytes < 0.9 * codes.nbytes
    same(codes, decode(arrays, "w", coded["w"]))


def test_a_name_that_looks_like_a_part_stops_nothing():
    w = clustered((100, 100), 16)
    weights = {"w": w, "w" + CODES: np.ones(3, np.float32)}
    arrays, coded = encode(weights)
    assert coded == {}
    assert set(arrays) == set(weights)


# --- files that are not what was written ---------------------------------------------------------


def entry(dtype="float32", shape=(100, 100)):
    return {"dtype": dtype, "shape": list(shape)}


@pytest.fixture(scope="module")
def stored():
    return encode({"w": clustered((100, 100), 16)})[0]


LIES = {
    "more codes": entry(shape=(100, 101)),
    "fewer codes": entry(shape=(100, 99)),
    "far more than the stream can hold": entry(shape=(1 << 40, 1 << 40)),
    "no shape": {"dtype": "float32"},
    "negative": entry(shape=(-100, -100)),
    "sizes that are no numbers": {"dtype": "float32", "shape": [100.0, 100]},
    "truth for a size": {"dtype": "float32", "shape": [True, 10_000]},
    "a shape that is no list": {"dtype": "float32", "shape": "100"},
    "other bytes": entry("int8"),
    "nothing at all": entry(shape=(0, 1 << 70)),
    "more axes than an array has": entry(shape=(*[1] * 70, 100, 100)),
    "objects": entry("object"),
    "structures": entry("V4"),
    "no entry": None,
    "a list": [1, 2],
}


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_a_manifest_that_lies_is_refused(stored, lie):
    if lie == "other bytes":  # the same number of bytes is no lie that could be seen
        assert decode(stored, "w", LIES[lie]).dtype == np.int8
        return
    with pytest.raises(BundleError, match="coded weight") as caught:
        decode(stored, "w", LIES[lie])
    assert caught.value.got.startswith("w: ")


def _raw(data, strategy=zlib.Z_DEFAULT_STRATEGY):
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy)
    return np.frombuffer(coder.compress(data) + coder.flush(), np.uint8)


def test_a_bomb_takes_no_memory(stored):
    bomb = _raw(bytes(100_000_000))  # 100 MB of zeros in 97 KB
    assert bomb.nbytes < 200_000
    tracemalloc.start()
    for shape in ((100, 100), (10_000, 10_000)):
        with pytest.raises(BundleError, match="coded weight"):
            decode({**stored, "w" + CODES: bomb}, "w", entry(shape=shape))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_streams_that_are_damaged_are_refused(stored):
    codes = stored["w" + CODES]
    for wrong in (
        codes[:-3],
        np.concatenate([codes, codes[:1]]),
        np.zeros_like(codes),
        rng.integers(0, 256, len(codes), dtype=np.uint8),
        codes.astype(np.float32),
        codes.reshape(1, -1),
        codes[:0],
    ):
        with pytest.raises(BundleError, match="coded weight"):
            decode({**stored, "w" + CODES: wrong}, "w", entry())


def test_codebooks_that_do_not_fit_are_refused(stored):
    values = stored["w" + VALUES]
    for wrong in (
        values[:, :15],
        values.astype(np.float64),
        values[0],
        np.repeat(values, 2, axis=0),
        values[:, :0],
    ):
        with pytest.raises(BundleError, match="coded weight"):
            decode({**stored, "w" + VALUES: wrong}, "w", entry())
    for missing in (CODES, VALUES):
        with pytest.raises(BundleError, match="nothing"):
            decode({n: a for n, a in stored.items() if n != "w" + missing}, "w", entry())


# --- in a bundle -----------------------------------------------------------------------------------


@pytest.fixture
def weights():
    return {
        "z": clustered((60, 70, 16), 32),
        "a": rng.standard_normal((9, 9)).astype(np.float32),
        "q": np.clip(np.rint(rng.standard_normal((90, 90)) * 20), -127, 127).astype(np.int8),
    }


@pytest.fixture
def bundle(tmp_path, weights):
    library = tmp_path / "built.so"
    library.write_bytes(b"code" * 100)
    contents = Contents("tiny", inputs=[], outputs=[], target=host(1))
    return write_bundle(tmp_path / "b", library, weights, contents)


def changed(bundle, change):
    """Change the manifest and sign it again, as someone with the source could."""
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    change(manifest)
    manifest["files"] = {n: file_json(bundle.path / n) for n in manifest["files"]}
    manifest["sha256"] = manifest_hash(manifest)
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))


def test_a_bundle_holds_and_gives_back_its_weights(bundle, weights):
    opened = open_bundle(bundle.path)
    back = opened.weights()
    assert list(back) == list(weights)
    for name, weight in weights.items():
        same(weight, back[name])
    on_disk = sum(file.stat().st_size for file in bundle.path.iterdir())
    assert opened.size_bytes == on_disk < 0.3 * sum(w.nbytes for w in weights.values())


def test_bundles_without_coded_weights_are_still_read(bundle, weights):
    save_file(weights, bundle.path / "weights.safetensors")

    def older(manifest):
        del manifest["coded"]
        manifest["schema"] = 1

    changed(bundle, older)
    for name, weight in open_bundle(bundle.path).weights().items():
        same(weights[name], weight)


def test_a_changed_stream_is_found_by_its_hash(bundle):
    file = bundle.path / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-10] ^= 1
    file.write_bytes(data)
    with pytest.raises(BundleError, match="damaged"):
        open_bundle(bundle.path)


@pytest.mark.parametrize(
    "coded", [["z"], {"z": 3}, {"z": {}}, {}, 3, {"z": entry(shape=(1 << 50,))}, {"a": entry()}]
)
def test_signed_lies_are_errors_of_the_bundle(bundle, coded):
    changed(bundle, lambda m: m.update(coded=coded))
    with pytest.raises(BundleError):
        open_bundle(bundle.path).weights()


def test_signed_bombs_are_errors_of_the_bundle(bundle):
    file = bundle.path / "weights.safetensors"
    save_file({**load_file(file), "z" + CODES: _raw(bytes(50_000_000))}, file)
    changed(bundle, lambda m: m["coded"]["z"].update(shape=[50_000_000]))
    with pytest.raises(BundleError, match="coded weight"):
        open_bundle(bundle.path).weights()
