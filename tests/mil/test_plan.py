"""Plans: which ops run, in which order, and when a tensor is released."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from layerdiff.errors import FeedError, PackageError
from layerdiff.mil.plan import Graph
from layerdiff.mil.program import Block, Constant, Function, Named, Op, TensorType

F32 = TensorType("float32", (2,))


def op(result: str, *reads: str, type: str = "add") -> Op:
    results = tuple(Named(name, F32) for name in result.split())
    return Op(type, results[0].name, MappingProxyType({f"i{n}": (name,) for n, name in enumerate(reads)}), results)


def function(*ops: Op, outputs: tuple[str, ...], inputs: tuple[str, ...] = ("x", "y")) -> Function:
    block = Block((), ops, outputs, {"k": Constant("k", F32)})
    return Function("main", "CoreML7", tuple(Named(name, F32) for name in inputs), block)


@pytest.fixture
def graph() -> Graph:
    #  x ─ a ─ b ─┬─ d        y ─ c ─ e
    #             └── c
    return Graph(
        function(op("a", "x", "k"), op("b", "a"), op("c", "y", "b"), op("d", "b"), op("e", "c"), outputs=("d", "e"))
    )


def names(plan) -> list[str]:
    return [step.op.name for step in plan.steps]


def test_only_ancestors_run(graph):
    assert names(graph.plan(["d"])) == ["a", "b", "d"]
    assert graph.plan(["d"]).feeds == ("x",)
    assert names(graph.plan(["e"])) == ["a", "b", "c", "e"]
    assert names(graph.plan(["x"])) == []
    assert graph.plan(["x"]).feeds == ("x",)


def test_what_is_given_hides_its_ancestors(graph):
    plan = graph.plan(["e", "d"], ["b"])
    assert names(plan) == ["c", "d", "e"]
    assert plan.feeds == ("y",)
    assert plan.injected == ("b",)
    assert graph.plan(["d"], ["b", "e"]).injected == ("b",)
    assert graph.plan(["d"], ["x"]).feeds == ()


def test_a_tensor_is_released_after_its_last_use_and_what_is_asked_for_never(graph):
    releases = {step.op.name: set(step.releases) for step in graph.plan(["d", "e"]).steps}
    assert releases == {"a": {"x"}, "b": {"a"}, "c": {"y"}, "d": {"b"}, "e": {"c"}}
    kept = graph.plan(["b", "e"]).steps
    assert not any("b" in step.releases or "e" in step.releases for step in kept)
    released = [name for step in graph.plan(["a", "b", "c", "d", "e"], keep=False).steps for name in step.releases]
    assert sorted(released) == sorted(["x", "y", "a", "b", "c", "d", "e"])


def test_a_result_that_nobody_reads_is_released_at_once():
    graph = Graph(function(op("a b", "x", type="split"), op("c", "a"), outputs=("c",)))
    assert set(graph.plan(["c"]).steps[0].releases) == {"x", "b"}


def test_a_given_result_of_an_op_that_still_runs_is_not_released_by_it():
    graph = Graph(function(op("a b", "x", type="split"), op("c", "a", "b"), outputs=("c",)))
    plan = graph.plan(["c"], ["b"])
    assert names(plan) == ["a", "c"]
    assert set(plan.steps[0].releases) == {"x"}
    assert set(plan.steps[1].releases) == {"a", "b"}


def test_a_value_given_for_a_result_that_nobody_reads_does_not_keep_that_result_alive():
    graph = Graph(function(op("a b", "x", type="split"), op("c", "a"), outputs=("c",)))
    plan = graph.plan(["c"], ["b"])
    assert plan.injected == ()
    assert set(plan.steps[0].releases) == {"x", "b"}


def test_depth_and_ancestors(graph):
    assert [graph.depths[name] for name in "abcde"] == [1, 2, 3, 3, 4]
    assert graph.ancestors("c") == {"x", "y", "a", "b"}
    assert graph.ancestors("x") == frozenset()


def test_unknown_names_suggest_the_nearest(graph):
    with pytest.raises(FeedError, match="no tensor 'f'"):
        graph.plan(["f"])
    with pytest.raises(FeedError, match="no tensor 'zz'"):
        graph.plan(["d"], ["zz"])
    with pytest.raises(FeedError, match="'k' is a constant"):
        graph.plan(["d"], ["k"])


def test_a_cyclic_program_is_refused():
    with pytest.raises(PackageError, match="'b' is used before it is computed: the program is cyclic"):
        Graph(function(op("a", "b"), op("b", "a"), outputs=("b",)))
    with pytest.raises(PackageError, match="'a' is used before it is computed"):
        Graph(function(op("a", "a"), outputs=("a",)))


def test_a_dangling_program_is_refused():
    with pytest.raises(PackageError, match="'nowhere' is used and defined nowhere") as raised:
        Graph(function(op("a", "nowhere"), outputs=("a",)))
    assert "op 'a' of type add" in str(raised.value)
    with pytest.raises(PackageError, match="'z' is used and defined nowhere"):
        Graph(function(op("a", "x"), outputs=("z",)))


def test_a_tensor_defined_twice_is_refused():
    with pytest.raises(PackageError, match="'a' is defined twice"):
        Graph(function(op("a", "x"), op("a", "x"), outputs=("a",)))


def test_a_block_may_read_from_the_block_around_it():
    inner = Block((), (op("c", "a", "x"),), ("c",), {})
    outer = Op("cond", "d", {"pred": ("y",)}, (Named("d", F32),), (inner, inner))
    graph = Graph(function(op("a", "x"), outer, outputs=("d",)))
    assert names(graph.plan(["d"])) == ["a", "d"]
    broken = Block((), (op("c", "q"),), ("c",), {})
    with pytest.raises(PackageError, match="'q' is used and defined nowhere"):
        Graph(function(Op("cond", "d", {"pred": ("y",)}, (Named("d", F32),), (broken, broken)), outputs=("d",)))
    with pytest.raises(PackageError, match="the blocks of the op 'd' do not go with its 1 results"):
        Graph(function(Op("cond", "d", {}, (Named("d", F32),), (inner, inner)), outputs=("d",)))


# ------------------------------------------------------------------ states and nested blocks

STATE = TensorType("float32", (2,), "state")


def write(state: str, data: str) -> Op:
    return Op("write_state", f"write_{data}", {"input": (state,), "data": (data,)}, ())


def read(result: str, state: str) -> Op:
    return Op("read_state", result, {"input": (state,)}, (Named(result, F32),))


@pytest.fixture
def stateful() -> Graph:
    #  s ─ a ─ b ─ (s) ─ c ─ d ─ (s) ─ e          x ─ b, d
    ops = (
        read("a", "s"),
        op("b", "a", "x"),
        write("s", "b"),
        read("c", "s"),
        op("d", "c", "x"),
        write("s", "d"),
        op("e", "c"),
    )
    block = Block((), ops, ("e",), {})
    return Graph(Function("main", "CoreML8", (Named("x", F32), Named("s", STATE)), block))


def test_a_read_depends_on_the_write_before_it_and_on_none_after(stateful):
    assert names(stateful.plan(["e"])) == ["a", "b", "write_b", "c", "e"]
    assert names(stateful.plan(["b"])) == ["a", "b"]
    assert stateful.plan(["b"]).states == ("s",)
    assert stateful.plan(["x"]).states == ()
    assert stateful.ancestors("e") == {"c", "s", "b", "a", "x"}
    assert stateful.depths["e"] == 4


def test_every_write_is_done_on_request(stateful):
    plan = stateful.plan(["b"], update_states=True)
    assert names(plan) == ["a", "b", "write_b", "c", "d", "write_d"]
    assert "s" not in {name for step in plan.steps for name in step.releases}


def test_a_given_tensor_hides_the_state_that_it_was_read_from(stateful):
    plan = stateful.plan(["e"], ["c"])
    assert (names(plan), plan.states) == (["e"], ())
    with pytest.raises(FeedError, match="'s' is a state, so no value can be given for it"):
        stateful.plan(["e"], ["s"])


def test_what_a_block_may_not_have_written_is_an_ancestor_too():
    taken, other = Block((), (write("s", "x"),), ("x",), {}), Block((), (), ("x",), {})
    choice = Op("cond", "c", {"pred": ("p",)}, (Named("c", F32),), (taken, other))
    ops = (op("a", "q"), write("s", "a"), choice, read("r", "s"))
    inputs = (*(Named(name, F32) for name in "xpq"), Named("s", STATE))
    graph = Graph(Function("main", "CoreML8", inputs, Block((), ops, ("r",), {})))
    assert names(graph.plan(["r"])) == ["a", "write_a", "c", "r"]
    assert graph.ancestors("r") == {"s", "a", "q", "p", "x"}
    assert graph.depths["r"] == 2


@pytest.mark.parametrize("kind", [TensorType("float32", (2,), "list"), TensorType("str", ())])
def test_a_list_or_a_label_cannot_be_given(kind):
    made = Op("make_list", "made", {}, (Named("made", kind),))
    graph = Graph(function(made, op("z", "made"), outputs=("z",)))
    with pytest.raises(FeedError, match="'made' is no tensor of numbers, so no value can be given for it"):
        graph.plan(["z"], ["made"])


def looping(*body: Op, outputs: tuple[str, ...]) -> Graph:
    """while(cond(i, v)) { body } over (x, y)."""
    variables = (Named("i", F32), Named("v", F32))
    condition = Block(variables, (op("go", "i", "v"),), ("go",), {})
    block = Block(variables, body, outputs, {})
    loop = Op("while_loop", "loop", {"loop_vars": ("x", "y")}, (Named("l0", F32), Named("l1", F32)), (condition, block))
    return Graph(function(op("z", "y"), loop, op("w", "l1"), outputs=("w",)))


def test_a_body_releases_its_variables_and_a_condition_does_not():
    graph = looping(op("p", "i"), op("q", "p", "v"), op("unused", "p"), outputs=("p", "q"))
    (loop, _) = graph.plan(["w"]).steps
    condition, body = loop.blocks
    assert [(s.op.name, s.releases) for s in condition.steps] == [("go", ())]
    assert [(s.op.name, set(s.releases)) for s in body.steps] == [("p", {"i"}), ("q", {"v"})]
    assert set(loop.releases) == {"x", "y", "l0"}
    whole = graph.plan(["w"], keep=False).steps[0].blocks[1]
    assert [s.op.name for s in whole.steps] == ["p", "q", "unused"]


def test_what_is_inside_of_a_block_can_be_seen_in_traces_only():
    graph = looping(op("p", "i"), op("q", "v"), outputs=("p", "q"))
    with pytest.raises(FeedError, match="the tensor 'q' is inside a block of the op 'loop'"):
        graph.plan(["q"])


def test_a_block_may_use_what_is_around_it_but_not_the_other_way_round():
    assert names(looping(op("p", "i", "z"), op("q", "v"), outputs=("p", "q")).plan(["w"])) == ["z", "loop", "w"]
    with pytest.raises(PackageError, match="the tensor 'p' is used and defined nowhere"):
        Graph(function(looping(op("p", "i"), outputs=("p", "v")).function.block.ops[1], op("w", "p"), outputs=("w",)))
