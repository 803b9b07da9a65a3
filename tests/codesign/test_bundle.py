import dataclasses
import errno
import json
import os
import shutil

import numpy as np
import pytest

from codesign.bundle import IO, BundleError, Contents, open_bundle, write_bundle
from codesign.candidate import Choice
from codesign.errors import UserError
from codesign.manifest import manifest_hash
from codesign.versions import versions
from targets.cpu import this_processor
from targets.target import host

_RNG = np.random.default_rng(0)
_WEIGHTS = {
    "z.weight": _RNG.standard_normal((5, 3)).astype(np.float32),
    "a.index": np.arange(4, dtype=np.int32),
    "m.int8": _RNG.integers(-127, 128, (2, 8), dtype=np.int8).T,  # not contiguous
}
_CONTENTS = Contents(
    name="tiny",
    inputs=[IO("x", (1, 3), "float32"), IO("ids", (1, 7), "int64")],
    outputs=[IO("y", (1, 5), "float32")],
    target=host(2),
    choices=[Choice("layer0.ffn", "ffn", {"keep": [1, 2]}).plain()],
    measurements={"latency_ms": np.float64(1.5)},
    quality={"mrr": 0.5},
)


@pytest.fixture
def library(tmp_path):
    path = tmp_path / "built.so"
    path.write_bytes(bytes(range(256)) * 20)
    return path


@pytest.fixture
def written(tmp_path, library):
    return write_bundle(tmp_path / "out" / "b", library, _WEIGHTS, _CONTENTS)


def _rewrite(bundle, change):
    """Change the manifest and sign it again, as someone with the source could."""
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    change(manifest)
    manifest["sha256"] = manifest_hash(manifest)
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))


def test_what_was_written_is_read(written, library):
    opened = open_bundle(written.path)
    assert opened.manifest == written.manifest
    assert opened.name == "tiny"
    assert opened.inputs == tuple(_CONTENTS.inputs)
    assert opened.outputs == (IO("y", (1, 5), "float32"),)
    assert opened.threads == 2
    assert opened.library.read_bytes() == library.read_bytes()
    assert opened.manifest["choices"][0]["setting"] == {"keep": [1, 2]}
    assert opened.manifest["measurements"] == {"latency_ms": 1.5}
    weights = opened.weights()
    assert list(weights) == list(_WEIGHTS)  # the order of the parameters, not of the alphabet
    for name, weight in _WEIGHTS.items():
        np.testing.assert_array_equal(weights[name], weight)
    assert opened.size_bytes > sum(w.nbytes for w in _WEIGHTS.values()) + 5120


def test_nothing_else_is_left_beside_it(written):
    assert sorted(p.name for p in written.path.parent.iterdir()) == ["b"]
    assert sorted(p.name for p in written.path.iterdir()) == [
        "lib.so", "manifest.json", "weights.safetensors",
    ]  # fmt: skip


def test_it_is_replaced_whole(written, library):
    library.write_bytes(b"new")
    write_bundle(written.path, library, {}, _CONTENTS)
    assert open_bundle(written.path).library.read_bytes() == b"new"
    assert [p.name for p in written.path.parent.iterdir()] == ["b"]


def test_it_can_be_moved(written, tmp_path):
    shutil.move(written.path, tmp_path / "elsewhere")
    assert open_bundle(tmp_path / "elsewhere").name == "tiny"


@pytest.mark.parametrize("file", ["lib.so", "weights.safetensors", "manifest.json"])
@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_a_changed_byte_is_found(written, file, where):
    path = written.path / file
    data = bytearray(path.read_bytes())
    at = int(len(data) * where)
    while chr(data[at]).isspace():
        at += 1
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"damaged|format") as caught:
        open_bundle(written.path)
    assert caught.value.next


@pytest.mark.parametrize("file", ["lib.so", "weights.safetensors", "manifest.json"])
def test_a_missing_or_cut_file_is_found(written, file):
    path = written.path / file
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(BundleError, match="damaged"):
        open_bundle(written.path)
    path.unlink()
    with pytest.raises(BundleError):
        open_bundle(written.path)


def test_no_bundle_at_all(tmp_path):
    for content in (None, "", "[]", "{}", '{"schema": 99}', "\udce4"):
        if content is not None:
            (tmp_path / "manifest.json").write_bytes(content.encode(errors="surrogateescape"))
        with pytest.raises(BundleError):
            open_bundle(tmp_path)
    with pytest.raises(BundleError, match="not a bundle"):
        open_bundle(tmp_path / "missing")


@pytest.mark.parametrize("below", ["", "bundles"])
def test_a_folder_that_holds_bundles_names_them(tmp_path, below):
    for name in ("p00", "p01"):
        (tmp_path / below / name).mkdir(parents=True)
        (tmp_path / below / name / "manifest.json").write_text("{}")
    with pytest.raises(BundleError, match="not a bundle") as caught:
        open_bundle(tmp_path)
    assert f"name one: {tmp_path / below / 'p00'}, {tmp_path / below / 'p01'}" in caught.value.next


def test_links_out_of_the_bundle_are_refused(written, tmp_path):
    library = written.path / "lib.so"
    shutil.move(library, tmp_path / "same.so")
    library.symlink_to(tmp_path / "same.so")
    with pytest.raises(BundleError, match="plain file"):
        open_bundle(written.path)


@pytest.mark.parametrize("name", ["../built.so", "/etc/passwd", "more.bin"])
def test_paths_out_of_the_bundle_are_refused(written, name):
    _rewrite(written, lambda m: m["files"].update({name: m["files"]["lib.so"]}))
    with pytest.raises(BundleError, match="wrong files"):
        open_bundle(written.path)


def test_another_cpu(written):
    _rewrite(written, lambda m: m["target"]["features"].append("amx-tile9"))
    with pytest.raises(BundleError, match="another CPU") as caught:
        open_bundle(written.path)
    assert "amx-tile9" in caught.value.got
    assert open_bundle(written.path, to_run=False).name == "tiny"  # reports may still read it


def test_tiles_that_linux_does_not_lend(written, monkeypatch):
    _rewrite(written, lambda m: m["target"]["features"].append("amx-tile"))
    here = this_processor()
    refused = dataclasses.replace(here, features=here.features - {"amx-tile"})
    monkeypatch.setattr("codesign.manifest.this_processor", lambda: refused)
    with pytest.raises(BundleError, match="another CPU") as caught:
        open_bundle(written.path)
    assert "amx-tile" in caught.value.got
    assert "lend its tiles" in caught.value.next


def test_another_architecture(written):
    _rewrite(written, lambda m: m["target"].update(machine="aarch64", features=[]))
    with pytest.raises(BundleError, match="another CPU"):
        open_bundle(written.path)


def test_another_tvm(written):
    _rewrite(written, lambda m: m["versions"].update(tvm="0.1"))
    with pytest.raises(BundleError, match="another TVM") as caught:
        open_bundle(written.path)
    assert versions()["tvm"] in caught.value.got


def test_a_target_this_machine_lacks_can_be_written(tmp_path, library):
    alien = dataclasses.replace(host(), features=frozenset({"sve2"}))
    contents = dataclasses.replace(_CONTENTS, target=alien)
    written = write_bundle(tmp_path / "b", library, {}, contents)
    with pytest.raises(BundleError, match="another CPU"):
        open_bundle(written.path)


def test_a_folder_that_holds_something_else_is_not_touched(tmp_path, library):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="no bundle"):
        write_bundle(tmp_path, library, {}, _CONTENTS)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_an_output_that_cannot_be_a_folder(library):
    with pytest.raises(UserError, match="cannot write") as caught:
        write_bundle(library / "b", library, {}, _CONTENTS)
    assert caught.value.next


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_full_or_read_only_disk(tmp_path, library, monkeypatch, code):
    def fail(source, destination):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(shutil, "copyfile", fail)
    with pytest.raises(UserError, match="cannot write") as caught:
        write_bundle(tmp_path / "b", library, _WEIGHTS, _CONTENTS)
    assert os.strerror(code) in caught.value.got
    assert sorted(p.name for p in tmp_path.iterdir()) == ["built.so"]  # nothing half is left


def test_a_failure_leaves_the_old_bundle(written, library, monkeypatch):
    monkeypatch.setattr(
        os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
    )
    with pytest.raises(UserError):
        write_bundle(written.path, library, {}, _CONTENTS)
    assert open_bundle(written.path).manifest == written.manifest
