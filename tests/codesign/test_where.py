"""Where the user wants things measured: the tracker's address, read or refused."""

from __future__ import annotations

import pytest

from codesign.devices.wire import Address
from codesign.errors import UserError
from codesign.where import TRACKER, Where


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (None, Address("127.0.0.1", 9190)),
        ("", Address("127.0.0.1", 9190)),
        ("lab:9000", Address("lab", 9000)),
        (" 10.0.0.7:1 ", Address("10.0.0.7", 1)),
        ("[::1]:9190", Address("::1", 9190)),
    ],
)
def test_an_address(text, address):
    assert Where(device="pi", tracker=text).address == address


def test_a_machine_without_a_port_has_the_usual_one():
    assert Where(tracker="lab").address == Address("lab", 9190)


@pytest.mark.parametrize("text", ["lab:", ":9190", "lab:port", "lab:70000", "lab:-1", "::"])
def test_what_is_no_address_is_refused_with_an_example(text):
    with pytest.raises(UserError) as error:
        _ = Where(device="pi", tracker=text).address
    said = str(error.value)
    assert repr(text)[1:-1] in said
    assert TRACKER in said
    assert "codesign devices tracker" in said


def test_without_a_device_it_is_this_machine():
    assert Where() == Where("host", 1, None, None, "")
