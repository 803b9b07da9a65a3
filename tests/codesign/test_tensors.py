import json

import ml_dtypes
import numpy as np
import pytest

from codesign.tensors import pack, unpack


def test_arrays_come_back_bit_by_bit():
    rng = np.random.default_rng(0)
    arrays = {
        "float": rng.standard_normal((3, 5)).astype(np.float32),
        "strided": rng.standard_normal((6, 4))[::2, ::-1],
        "int8": rng.integers(-128, 128, (7,), dtype=np.int8),
        "bool": np.array([[True, False]]),
        "scalar": np.float64(2.5),
        "empty": np.zeros((0, 3), np.int64),
        "nan": np.array([np.nan, -0.0, np.inf]),
    }
    header, blobs = pack(arrays)
    again = unpack(json.loads(json.dumps(header)), [bytes(b) for b in blobs])
    assert list(again) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)
        assert again[name].dtype == np.asarray(array).dtype
        assert again[name].shape == np.asarray(array).shape


def test_objects_are_refused():
    with pytest.raises(ValueError, match="object"):
        pack({"x": np.array([object()])})


def test_types_that_numpy_has_no_code_for_are_refused():
    with pytest.raises(ValueError, match="bfloat16"):
        pack({"x": np.zeros(3, ml_dtypes.bfloat16)})
