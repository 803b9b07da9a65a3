from codesign.device import measure_key, target_key, this_device
from codesign.measurement import Protocol
from targets.target import find


def test_keys_differ_in_all_that_changes_a_time():
    target, protocol = find("x86-64-v3"), Protocol()
    keys = {
        measure_key(what, t, device, p, kind).digest
        for what, t, device, p, kind in [
            ("a", target, "d", protocol, "kernel"),
            ("b", target, "d", protocol, "kernel"),
            ("a", target.with_threads(2), "d", protocol, "kernel"),
            ("a", find("x86-64-v4"), "d", protocol, "kernel"),
            ("a", target, "e", protocol, "kernel"),
            ("a", target, "d", Protocol(repeats=3), "kernel"),
            ("a", target, "d", protocol, "baseline"),
        ]
    }
    assert len(keys) == 7
    assert measure_key("a", target, "d", protocol).digest in keys


def test_a_target_is_what_it_does_not_what_it_is_called():
    assert target_key(find("x86-64-v3")) != target_key(find("x86-64-v4"))
    assert "description" not in target_key(find("x86-64-v3"))


def test_this_device_has_a_name_that_stays():
    assert this_device() == this_device()
    assert "processors" in this_device()
