"""A user's own device: read strictly, and wrong in every way that a file can be wrong."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.catalog import library
from targets.description import DeviceDescription
from targets.device_file import read_device, read_library, to_toml
from targets.errors import TargetError
from targets.target import device_of, find

FULL = """
[[device]]
name = "my-phone"
maker = "Maker"
model = "Phone \\"1\\" \u00e9"
system = "android"
chip = "my-chip"
sources = ["its box"]

[[chip]]
name = "my-chip"
maker = "Maker"
features = ["dotprod", "fullfp16"]
l3_bytes = 2097152
gpu = "My GPU"
gpu_units = 3

[[chip.cluster]]
name = "big"
core = "cortex-a76"
count = 2
max_ghz = 2
l1d_bytes = 65536
l2_bytes = 524288

[[chip.cluster]]
name = "little"
core = "cortex-a55"
count = 6

[[gpu]]
name = "My GPU"
family = "mali"
generation = "valhall"
max_threads = 512
subgroup = 16
local_bytes = 32768
units = 1
fp16 = true
int8_dot = false
"""

SHORT = """
[[device]]
name = "my-board"
maker = "Maker"
model = "Board"
system = "linux"
chip = "rk3588"
"""


def read(text: str, folder: Path) -> DeviceDescription:
    path = folder / "phone.toml"
    path.write_text(text, encoding="utf-8")
    return read_device(path, library())


def test_a_whole_file(tmp_path):
    device = read(FULL, tmp_path)
    assert device.model == 'Phone "1" \u00e9'
    assert device.chip.features == ("dotprod", "fullfp16", "neon")
    assert device.chip.clusters[0].max_ghz == 2.0
    assert device.chip.gpu.units == 3
    assert device.unknown() == ("highest clock of little", "L1d of little", "L2 of little")
    assert read(to_toml(device), tmp_path) == device


def test_a_known_chip_makes_a_phone_of_a_few_lines(tmp_path):
    device = read(SHORT, tmp_path)
    assert device.chip is library().chips["rk3588"]
    assert device.sources == ()


def test_a_file_is_a_target(tmp_path):
    path = tmp_path / "a+b" / "my phone.toml"
    path.parent.mkdir()
    path.write_text(FULL, encoding="utf-8")
    assert find(str(path), 2).mcpu == "cortex-a76"
    assert find(str(path), 2).threads == 2
    little = find(f"{path}/little+i8mm")
    assert (little.name, little.mcpu) == ("my-phone/little+i8mm", "cortex-a55")
    assert little.features == {"neon", "dotprod", "fullfp16", "i8mm"}
    assert find(f"{path}/gpu").gpu.units == 3
    assert device_of(f"{path}/gpu").name == "my-phone"
    with pytest.raises(TargetError) as caught:
        find(f"{path}/middle")
    assert f"{path}/little" in caught.value.allowed


@pytest.mark.parametrize(
    ("old", "new", "what", "says"),
    [
        ('name = "my-phone"', 'name = "My Phone"', "name of the device", "small letters"),
        ('system = "android"', 'system = "symbian"', "system is unknown", "android, linux"),
        ('system = "android"', "", "lacks the key 'system'", "a text"),
        ('system = "android"', 'system = "android"\ncolour = 1', "unknown key 'colour'", "maker"),
        ('chip = "my-chip"', 'chip = "my-chop"', "chip of my-phone is not described", "my-chip"),
        ('gpu = "My GPU"', 'gpu = "Adreno 740x"', "GPU of my-chip is not described", "Adreno 740"),
        ('gpu = "My GPU"', "", "has gpu_units and no gpu", "3"),
        ("count = 2", "count = 0", "count is impossible", "1 to 1024"),
        ("count = 2", 'count = "2"', "count has a wrong value", "a whole number"),
        ("count = 2", "count = true", "count has a wrong value", "a whole number"),
        ("max_ghz = 2", "max_ghz = nan", "max_ghz has a wrong value", "a finite number"),
        ("max_ghz = 2", "max_ghz = 2400", "max_ghz is impossible", "0.1 to 10.0"),
        ("max_ghz = 2", f"max_ghz = 1{'0' * 400}", "max_ghz has a wrong value", "finite"),
        ("max_ghz = 2", f"max_ghz = 1{'0' * 5000}", "is not TOML", "[[device]]"),
        ("l2_bytes = 524288", "l2_bytes = 512", "l2_bytes is impossible", "leave it out"),
        ('core = "cortex-a76"', 'core = "cortex-a67"', "unknown core", "cortex-a76"),
        ('["dotprod", "fullfp16"]', '["dotprd"]', "features: unknown feature", "'dotprod'"),
        ('name = "little"', 'name = "big"', "clusters need names", "each name once"),
        ('name = "little"', 'name = "gpu"', "clusters need names", "gpu is the GPU's"),
        ('family = "mali"', 'family = "voodoo"', "family is unknown", "adreno, mali, opencl"),
        ("fp16 = true", "fp16 = 1", "fp16 has a wrong value", "true or false"),
        ("subgroup = 16", "subgroup = -1", "subgroup is impossible", "1 to 1024"),
        ('sources = ["its box"]', 'sources = [""]', "a source cannot be used", "printable"),
        ("[[gpu]]", "[gpu]", "[gpu] has single brackets", "write [[gpu]]"),
        ("[[device]]", "[device]", "[device] has single brackets", "write [[device]]"),
        ("[[chip.cluster]]", "[cluster]", "belongs to a chip", "write [[chip.cluster]]"),
        (FULL, SHORT + '[[chip]]\nname = "c"\n[chip.cluster]\n', "single brackets", "[[chip.cl"),
        ('["dotprod", "fullfp16"]', '["asimddp"]', "unknown feature", "mean 'dotprod'"),
        ('["dotprod", "fullfp16"]', '["fp16"]', "unknown feature", "mean 'fullfp16'"),
        ('name = "my-phone"', 'name = "My Phone"', "name of the device", "my-phone would be one"),
        ('system = "android"', 'system = "Android"', "system is unknown", "mean 'android'"),
        ("[[gpu]]", "[[gpu]", "is not TOML", "quotes"),
        ("[[device]]", "[[phone]]", "unknown key 'phone'", "device, chip, gpu"),
        (FULL, SHORT + SHORT, "is described twice", "my-board"),
        (FULL, SHORT + SHORT.replace("board", "laptop"), "must describe one device", "my-laptop"),
        (FULL, "", "must describe one device", "none"),
        (FULL, f"x = {'[' * 5000}", "is not TOML", "[[device]]"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, old, new, what, says):
    assert old in FULL
    with pytest.raises(TargetError) as caught:
        read(FULL.replace(old, new, 1), tmp_path)
    assert what in str(caught.value)
    assert says in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path):
    for name, content in (("no.toml", None), ("bytes.toml", b"\xff\xfe"), ("folder.toml", "")):
        path = tmp_path / name
        if content == "":
            path.mkdir()
        elif content:
            path.write_bytes(content)
        with pytest.raises(TargetError, match="cannot be read"):
            find(str(path))
    with pytest.raises(TargetError, match="cannot be read"):
        find("a\0b.toml")
    large = tmp_path / "large.toml"
    large.write_text("#" * (1 << 20) + "\n")
    with pytest.raises(TargetError, match="too large"):
        find(str(large))


def test_files_may_name_each_others_chips():
    found = read_library({"a": FULL[: FULL.index("[[chip]]")], "b": FULL[FULL.index("[[chip]]") :]})
    assert found.devices["my-phone"].chip is found.chips["my-chip"]


_PIECES = st.sampled_from(
    ['"', "[", "]", "=", "\n", "-1", "1e99", "0x1", "true", '""', "'''", "[[gpu]]", "{}", "a.b",
     "1979-05-27T07:32:00Z", "\0", "\u2028", "\ud7ff", "neon", "sve2", "cortex-x4", "nan", "#"]
)  # fmt: skip


@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(FULL)), st.integers(0, 40), _PIECES | st.text(max_size=8)),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=400, deadline=None)
def test_a_mutated_file_is_a_device_or_an_error_of_the_user(changes):
    text = FULL
    for start, length, piece in changes:
        text = text[:start] + piece + text[start + length :]
    with TemporaryDirectory() as folder:
        try:
            device = read(text, Path(folder))
        except TargetError:
            return
        assert read(to_toml(device), Path(folder)) == device


PAGE = (Path(__file__).parents[2] / "docs" / "targets.md").read_text(encoding="utf-8")


def test_the_files_of_the_guide_are_read(tmp_path):
    short, full = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert read(short, tmp_path).chip == library().chips["snapdragon-865"]
    board = read(full, tmp_path)
    assert [c.name for c in board.chip.clusters] == ["big", "little"]
    assert board.unknown() == ("highest clock of little", "L1d of little")
    assert find(str(tmp_path / "phone.toml/gpu")).gpu.int8_dot


def test_the_targets_of_the_guide_are_there():
    for name in ("pixel-8/big", "pixel-8/middle", "adreno", "mali", "graviton3", "znver5"):
        assert f"`{name}`" in PAGE
        assert find(name)
    assert find("android-arm64+dotprod+fullfp16").has_fp16
    systems = [d.system for d in library().devices.values()]
    servers = [d for d in library().devices.values() if "EC" in d.model or "Altra" in d.model]
    boards = systems.count("linux") - len(servers)
    told = f"{systems.count('android')} phones, {boards} boards and laptops, {len(servers)} servers"
    assert told in PAGE
