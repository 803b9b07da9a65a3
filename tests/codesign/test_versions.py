from importlib import metadata

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
