import pytest
from tvm import te, tirx

from codesign.kernel_args import KernelArg, kernel_args


def _dims(*extents):
    return tuple(tirx.IntImm("int64", e) for e in extents)


def _axis(extent, name="k"):
    return te.reduce_axis((tirx.IntImm("int64", 0), tirx.IntImm("int64", extent)), name=name)


def test_dense_kernel_has_no_indices():
    x = te.placeholder(_dims(3, 5), name="x")
    y = te.compute(_dims(3), lambda i: x[i, tirx.const(0, "int64")], name="y")
    args = kernel_args(te.create_prim_func([x, y]))
    assert args == (
        KernelArg((3, 5), "float32"),
        KernelArg((3,), "float32", output=True),
    )
    assert args[0].to_json()["shape"] == [3, 5]


@pytest.mark.parametrize("group", [1, 4])
def test_index_stays_inside_what_it_indexes(group):
    x = te.placeholder(_dims(8, 64), name="x")
    index = te.placeholder(_dims(2, 5), "int32", name="any_name")
    k, j = _axis(5), _axis(group, "j")
    y = te.compute(
        _dims(8, 2),
        lambda m, n: te.sum(x[m, index[n, k].astype("int64") * group + j], axis=[k, j]),
        name="y",
    )
    assert [a.bound for a in kernel_args(te.create_prim_func([x, index, y]))] == [0, 64 // group, 0]


def test_offset_into_a_flat_input():
    image = te.placeholder(_dims(10 * 10), name="image")
    offset = te.placeholder(_dims(4), "int32", name="offset")
    k = _axis(4)
    y = te.compute(
        _dims(8, 8), lambda h, w: te.sum(image[offset[k] + h * 10 + w], axis=k), name="y"
    )
    bound = kernel_args(te.create_prim_func([image, offset, y]))[1].bound
    assert bound - 1 + 7 * 10 + 7 == 99


def test_int64_ids_of_an_embedding_used_twice():
    table = te.placeholder(_dims(30, 4), name="table")
    small = te.placeholder(_dims(7, 4), name="small")
    ids = te.placeholder(_dims(1, 6), "int64", name="ids")
    y = te.compute(
        _dims(6, 4),
        lambda i, j: table[ids[0, i], j] + small[ids[0, i], j],
        name="y",
    )
    assert [a.bound for a in kernel_args(te.create_prim_func([table, small, ids, y]))] == [
        0,
        0,
        7,
        0,
    ]


def test_an_integer_that_is_only_a_number_has_no_bound():
    q = te.placeholder(_dims(6), "int32", name="index")  # the name says nothing
    y = te.compute(_dims(6), lambda i: q[i] * 2, name="y")
    assert [a.bound for a in kernel_args(te.create_prim_func([q, y]))] == [0, 0]


def test_an_index_that_is_not_linear_gets_only_zero():
    x = te.placeholder(_dims(16), name="x")
    index = te.placeholder(_dims(3), "int64", name="i")
    y = te.compute(_dims(3), lambda i: x[index[i] * index[i]], name="y")
    assert kernel_args(te.create_prim_func([x, index, y]))[1].bound == 1


def test_dynamic_shapes_are_refused():
    n = te.var("n", "int64")
    x = te.placeholder((n,), name="x")
    y = te.compute((n,), lambda i: x[i] + 1.0, name="y")
    with pytest.raises(ValueError, match="static shape"):
        kernel_args(te.create_prim_func([x, y]))
