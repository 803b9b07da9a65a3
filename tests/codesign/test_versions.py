from importlib import metadata
from types import SimpleNamespace

import pytest

from codesign import versions
from codesign.errors import UserError


@pytest.fixture
def pretend(monkeypatch):
    def set_version(package, version):
        real = metadata.version

        def fake(name):
            if name != package:
                return real(name)
            if version is None:
                raise metadata.PackageNotFoundError(name)
            return version

        monkeypatch.setattr(metadata, "version", fake)

    return set_version


def test_the_pinned_versions_are_installed():
    assert versions.wrong() == {}
    versions.require()
    assert versions.versions()["tvm_ffi"] == versions.TVM_FFI


@pytest.mark.parametrize("version", ["0.1.15", "0.1.13", None])
def test_a_wrong_ffi_says_what_to_install(pretend, version):
    pretend("apache-tvm-ffi", version)
    with pytest.raises(UserError) as caught:
        versions.require()
    assert f"apache-tvm-ffi {version or 'missing'}" in caught.value.got
    assert "pip install" in caught.value.next
    assert "apache-tvm-ffi==0.1.14.post1" in caught.value.next
    assert "apache-tvm 0" not in caught.value.got  # only what is wrong


def test_a_wrong_tvm_too(pretend):
    pretend("apache-tvm", "0.26.0")
    with pytest.raises(UserError, match="does not work"):
        versions.require()


def test_other_kernels_are_another_generator(tmp_path, monkeypatch):
    for name in ("passes", "targets"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()

    def find_spec(package):
        return SimpleNamespace(submodule_search_locations=[str(tmp_path / package)])

    monkeypatch.setattr(versions, "find_spec", find_spec)

    def now():
        versions.generator.cache_clear()
        return versions.generator()

    one = now()
    assert now() == one
    (tmp_path / "targets" / "tile.py").write_text("ROWS = 4")
    two = now()
    (tmp_path / "targets" / "tile.py").write_text("ROWS = 8")
    three = now()
    monkeypatch.undo()
    assert len({one, two, three, now()}) == 4
    assert versions.versions()["generator"] == versions.generator()
