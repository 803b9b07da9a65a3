"""Where a model is cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tvm
from tvm import relax

from codesign.simulate import Simulator, Variant
from codesign.simulate.graph import Dataflow
from codesign.simulate.segments import cut
from passes.errors import PassError
from passes.model import Model, TensorSpec
from targets.target import find


@pytest.fixture(scope="module")
def net(encoder):
    return encoder(layers=3, seq=6, width=32, heads=2, hidden=40)


def names(segments):
    return [s.name for s in segments]


def test_slice_takes_what_depends_on_the_given(net):
    layer = net.sites.layers[1]
    flow = Dataflow(net.model)
    part = flow.slice((layer.input,), (layer.output,))
    assert part.weights == tuple(n for n in net.model.weights if n.startswith("1."))
    assert len(part.context) == 1  # the attention bias
    assert {b.var.name for b in part.bindings} >= {layer.output}
    assert layer.input not in {b.var.name for b in part.bindings}


def test_what_lies_between_layers_is_a_segment(net):
    some = replace(net.sites, layers=(net.sites.layers[0], net.sites.layers[2]))
    segments = cut(Dataflow(net.model), some)
    assert names(segments) == ["prefix", "layer0", "before layer2", "layer2", "suffix"]
    assert [s.is_section for s in segments] == [False, True, False, True, False]
    sample = net.sample(1)
    simulator = Simulator(net.model, some, find("host"), [sample])
    ((got,),) = simulator.outputs(simulator.dense_stream("layer0"))
    np.testing.assert_allclose(got, net.reference(sample), atol=2e-5)


def test_layers_that_are_no_chain_are_one_segment(net):
    first, second, third = net.sites.layers
    parallel = replace(second, input=first.input)  # as if it read the same as the first
    segments = cut(Dataflow(net.model), replace(net.sites, layers=(first, parallel, third)))
    assert names(segments) == ["suffix"]
    assert len(segments[0].linears) == 12


def test_a_value_of_a_layer_that_is_read_later_forbids_the_cut(net):
    inner = Dataflow(net.model).bindings[net.sites.layers[0].output].value.args[0].name
    flow = Dataflow(net.model)
    flow.outputs = (*flow.outputs, inner)  # a model that also returns a value inside layer0
    flow.model = replace(
        net.model, outputs=(*net.model.outputs, TensorSpec("inner", (1, 6, 32), "float32"))
    )
    assert names(cut(flow, net.sites)) == ["suffix"]


def test_what_a_layer_makes_may_be_an_output_or_be_read_by_one(net):
    """Outputs of the first layer, and of elementwise work on the second one's."""
    first, second, _ = net.sites.layers
    model = with_outputs(net.model, first.output, second.output)
    segments = cut(Dataflow(model), net.sites)
    assert names(segments) == ["prefix", "layer0", "layer1", "layer2", "suffix"]
    suffix = segments[-1].part
    assert suffix.given == (net.sites.layers[2].output,)
    assert suffix.context == (first.output, second.output)
    assert first.output not in segments[0].part.wanted
    sample = net.sample(1)
    simulator = Simulator(model, net.sites, find("host"), [sample])
    ((last, early, doubled),) = simulator.outputs(simulator.dense_stream("layer0"))
    wanted = [net.reference(sample, dropped=frozenset(gone)) for gone in ((), (1, 2), (2,))]
    np.testing.assert_allclose(last, wanted[0], atol=2e-5)
    np.testing.assert_allclose(early, wanted[1], atol=2e-5)
    np.testing.assert_allclose(doubled, 2 * wanted[2], atol=4e-5)
    stream = simulator.advance(simulator.dense_stream("layer0"), Variant(dropped=True))
    ((_, early, _),) = simulator.outputs(stream)
    np.testing.assert_allclose(
        early, net.reference(sample, dropped=frozenset((0, 1, 2))), atol=2e-5
    )


def with_outputs(model: Model, plain: str, doubled: str) -> Model:
    """The model with two more outputs: a variable, and the double of another."""
    by_name = {b.var.name: b.var for block in model.main.body.blocks for b in block.bindings}
    bindings = [b for block in model.main.body.blocks for b in block.bindings]
    twice = relax.op.multiply(by_name[doubled], relax.const(2.0, "float32"))
    double = relax.DataflowVar("double", by_name[doubled].ty)
    (old,) = bindings[-1].value.fields
    values = relax.Tuple([old, by_name[plain], double])
    out = relax.Var("outputs", relax.TupleType([v.ty for v in values.fields]))
    block = relax.DataflowBlock(
        [*bindings[:-1], relax.VarBinding(double, twice), relax.VarBinding(out, values)]
    )
    main = relax.Function(model.main.params, relax.SeqExpr([block], out), out.ty)
    module = tvm.IRModule({"main": main.with_attr("global_symbol", "main")})
    shape = model.outputs[0].shape
    more = (TensorSpec("early", shape, "float32"), TensorSpec("doubled", shape, "float32"))
    return replace(model, mod=relax.transform.Normalize()(module), outputs=(*model.outputs, *more))


def test_two_variables_of_one_name_are_refused():
    ty = relax.TensorType([2], "float32")
    x, first, second = relax.Var("x", ty), relax.DataflowVar("a", ty), relax.DataflowVar("a", ty)
    out = relax.Var("out", relax.TupleType([ty]))
    bindings = [
        relax.VarBinding(first, relax.op.nn.relu(x)),
        relax.VarBinding(second, relax.op.nn.relu(first)),
        relax.VarBinding(out, relax.Tuple([second])),
    ]
    body = relax.SeqExpr([relax.DataflowBlock(bindings)], out)
    module = tvm.IRModule({"main": relax.Function([x], body, out.ty)})
    spec = TensorSpec("x", (2,), "float32")
    with pytest.raises(PassError, match="same name") as caught:
        Dataflow(Model(module, {}, (spec,), (spec,)))
    assert caught.value.got == "a"
