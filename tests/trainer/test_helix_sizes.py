"""The graph and the counts of HelixLM, from the config alone."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.helix_config import HelixConfig
from trainer.helix_sizes import report
from trainer.helix_topology import topology_of

VOCAB = 50_257


def numpy_draw(columns: int, lateral_p: float, vertical_p: float, depth: int, seed: int) -> list[list[int]]:
    """The published rule, on numpy's own legacy generator."""
    random = np.random.RandomState(seed)
    drawn: list[list[int]] = []
    for node in range(3 * columns):
        column = node // 3
        sources: list[int] = []
        for earlier in range(max(0, column - depth), column):
            if random.rand() < vertical_p:
                sources += [3 * earlier + int(i) for i in random.choice(3, random.randint(1, 4), replace=False)]
        sources += [beside for beside in range(3 * column, node) if random.rand() < lateral_p]
        if not sources and column:
            sources = [3 * (column - 1) + int(random.randint(3))]
        drawn.append(sources)
    return drawn


def test_seed_42_draws_the_published_graph():
    graph = topology_of(HelixConfig(), 42)
    assert graph.edges == "0>1 1>2 2>3 0>3 1>3 2>4 1>4 0>4 3>4 0>5 4>5"
    assert graph.hash == hashlib.sha256(graph.edges.encode()).hexdigest()
    assert graph.kinds == ("full", "swiglu", "gate", "linear", "swiglu", "gate")
    assert graph.bypassed == (0,) and graph.running == (1, 2, 3, 4, 5) and graph.sinks == (3, 4, 5)


def test_a_gate_with_too_few_logits_reads_the_first_of_its_predecessors():
    published = topology_of(HelixConfig(num_columns=3), 42)
    assert len(published.predecessors[8]) == 7 and published.inputs(8) == published.predecessors[8][:2]
    assert topology_of(HelixConfig(num_columns=3, gate_fix=True), 42).inputs(8) == published.predecessors[8]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 42, 2**32 - 1])),
    columns=st.integers(1, 6),
    lateral_p=st.floats(0, 1),
    vertical_p=st.floats(0, 1),
    depth=st.integers(1, 4),
)
def test_draws_are_those_of_numpy(seed, columns, lateral_p, vertical_p, depth):
    config = HelixConfig(num_columns=columns, lateral_p=lateral_p, vertical_p=vertical_p, vertical_depth=depth)
    drawn = [list(sources) for sources in topology_of(config, seed).predecessors]
    assert drawn == numpy_draw(columns, lateral_p, vertical_p, depth, seed)


@pytest.mark.parametrize(
    ("attention", "nodes", "body", "never_trained", "total"),
    [
        ("hybrid", 27_492_356, 34_839_558, 4_201_474, 86_302_726),
        ("linear", 27_500_548, 34_847_750, 4_209_666, 86_310_918),
    ],
)
def test_published_counts_to_the_digit(attention, nodes, body, never_trained, total):
    told = report(HelixConfig(attention=attention), VOCAB, 42, 1024)
    assert (told["nodes"], told["active"], told["body"], told["tied_total"]) == (nodes, nodes, body, total)
    assert told["never_trained"] == never_trained
    assert told["embedding"] == 51_463_168 == VOCAB * 1024
    assert told["padding"] == 47 * 1024  # to 50,304 rows in the product with the vocabulary


@pytest.mark.parametrize(
    ("options", "nodes"),
    [
        ({"num_columns": 3}, 41.25e6),
        ({"d_model": 768, "num_heads": 12, "ffn_multiple": 2.25}, 13.8895e6),
        ({"d_model": 512, "num_heads": 8, "num_columns": 4}, 13.78e6),
    ],
)
def test_published_counts_of_other_sizes(options, nodes):
    assert report(HelixConfig(**options), VOCAB, 42, 1024)["nodes"] == pytest.approx(nodes, rel=1e-3)


def test_the_topology_decides_the_size():
    bodies = {report(HelixConfig(), VOCAB, seed, 1024)["body"] for seed in range(40)}
    assert max(bodies) == 34_839_558 and len(bodies) > 2  # that of seed 42 is the largest


def test_flops_count_loops_and_head():
    one, four = (report(HelixConfig(num_loops=loops), VOCAB, 42, 1024)["flops_per_token"] for loops in (1, 4))
    body = 30_744_576 + 2 * 1024 * 64  # products of the published graph, and the state's update and read-out
    assert four == 6 * (4 * body + 51_463_168) and four - one == 6 * 3 * body
    assert four / 3 == pytest.approx(349.4e6, rel=0.002)  # torch's FlopCounter found that for a forward pass, as built
    full = report(HelixConfig(attention="full"), VOCAB, 42, 1024)["flops_per_token"]
    assert full - four == 6 * 4 * (1024 * 1024 - 2 * 1024 * 64 - 2 * 64 * 64 * 16)
