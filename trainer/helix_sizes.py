"""What a HelixLM holds and costs, from its config: shapes of the weights, counts, FLOPs.  Standard library only.

Several published figures go by the name of parameters; `report` tells them apart.
"""

from __future__ import annotations

import math
from typing import Any

from trainer.helix_config import HelixConfig
from trainer.helix_topology import Topology, topology_of

Shapes = dict[str, tuple[int, ...]]
ALIGNMENT = 64
"""The product with the vocabulary is filled up to a multiple of this many words."""
ACTIVE = (
    "parameters of the graph's nodes, whether they run or not; without merges, recurrence, halting and embedding "
    "(the published count)"
)


def helix_shapes(config: HelixConfig, vocab_size: int, seed: int) -> Shapes:
    """Every weight by its name in the model: what Helix(...).named_parameters() has, in its order.

    Args:
        config: of the family.
        vocab_size: words of the tied embedding.
        seed: of the topology.
    """
    topology, dim = topology_of(config, seed), config.d_model
    found: Shapes = {"embedding.weight": (vocab_size, dim)}
    core: Shapes = {"log_a": (dim,), "log_dt": (), "b": (dim,), "norm.weight": (dim,)}
    for node in range(len(topology.kinds)):
        core |= {f"nodes.{node}.{name}": shape for name, shape in _node(config, topology, node).items()}
    for node in merges(topology):
        core |= _affine(f"merges.{node}.linear", dim, len(topology.predecessors[node]) * dim)
        core |= {f"merges.{node}.norm.weight": (dim,)} if config.merge_norm else {}
    found |= {f"recurrence.{name}": shape for name, shape in core.items()}
    halting: Shapes = {} if config.act == "off" else {"halt_weight": (dim,), "halt_bias": ()}
    return found | {f"readout.{name}": shape for name, shape in (halting | {"norm.weight": (dim,)}).items()}


def _node(config: HelixConfig, topology: Topology, node: int) -> Shapes:
    dim, kind = config.d_model, topology.kinds[node]
    if kind == "gate":
        return {"logits": (topology.gate_logits[node],), "norm.weight": (dim,)} | _affine("out_proj", dim, dim)
    if kind == "swiglu":
        inner: Shapes = {"gate.weight": (config.hidden, dim), "up.weight": (config.hidden, dim)}
        return {"norm.weight": (dim,)} | inner | {"down.weight": (dim, config.hidden)}
    found: Shapes = {"norm.weight": (dim,)}
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        found |= _affine(name, dim, dim)
    features: Shapes = {f"{name}.weight": (config.linear_feature_dim, config.head_dim) for name in ("q_feat", "k_feat")}
    return found | (features if kind == "linear" else {})


def _affine(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def merges(topology: Topology) -> list[int]:
    """The nodes whose predecessors are merged by a projection: all with several, gates aside."""
    several = (node for node, sources in enumerate(topology.predecessors) if len(sources) > 1)
    return [node for node in several if topology.kinds[node] != "gate"]


def never_trained(config: HelixConfig, vocab_size: int, seed: int) -> set[str]:
    """Names of the weights that no output depends on: of nodes that do not run, of norms that gates have and do not
    use, and of a gate's logits when it has a single predecessor."""
    topology = topology_of(config, seed)
    idle = set(range(len(topology.kinds))) - set(topology.running)
    dead = {f"recurrence.{part}.{node}." for node in idle for part in ("nodes", "merges")}
    for node in topology.gate_logits:
        dead.add(f"recurrence.nodes.{node}.norm.")
        if len(topology.inputs(node)) < 2:
            dead.add(f"recurrence.nodes.{node}.logits")
    if config.act == "remainder" and config.num_loops == 1:  # the only loop takes all
        dead.add("readout.halt_")
    return {name for name in helix_shapes(config, vocab_size, seed) if name.startswith(tuple(dead))}


def flops_per_token(config: HelixConfig, vocab_size: int, seed: int, seq_len: int) -> float:
    """Of a training step: 6 for each weight of a matrix product, as often as it runs, and for each product that
    attention takes: linear attention in its recurrent form, softmax attention over half of the sequence."""
    topology, dim = topology_of(config, seed), config.d_model
    weights = helix_shapes(config, vocab_size, seed)
    products = 0
    for node in topology.running:
        inside = (f"recurrence.nodes.{node}.", f"recurrence.merges.{node}.")
        for name, shape in weights.items():
            shared = config.num_heads if name.endswith("_feat.weight") else 1
            products += shared * math.prod(shape) if name.startswith(inside) and len(shape) == 2 else 0
        if topology.kinds[node] == "linear":
            products += 2 * dim * config.linear_feature_dim
        elif topology.kinds[node] == "full":
            products += dim * seq_len
    return 6.0 * (config.num_loops * products + vocab_size * dim)


def activation_bytes(config: HelixConfig, seed: int) -> float:
    """Bytes a token that a training pass keeps ahead of the head, in 16 bits: a guess, from what products read."""
    topology, dim = topology_of(config, seed), config.d_model
    kept = 4.0 * dim
    for node in topology.running:
        kind = topology.kinds[node]
        kept += {"swiglu": 4 * dim + 4 * config.hidden, "gate": 4 * dim}.get(kind, 12 * dim)
        kept += (len(topology.predecessors[node]) + 1) * dim if node in merges(topology) else 0
    return 2 * config.num_loops * kept


def report(config: HelixConfig, vocab_size: int, seed: int, seq_len: int) -> dict[str, Any]:
    """The counts that go by the name of parameters, apart; the graph and its hash; FLOPs a token."""
    weights = {name: math.prod(shape) for name, shape in helix_shapes(config, vocab_size, seed).items()}
    topology = topology_of(config, seed)
    nodes = sum(count for name, count in weights.items() if name.startswith("recurrence.nodes."))
    embedding = weights["embedding.weight"]
    return {
        "nodes": nodes,
        "body": sum(weights.values()) - embedding,
        "never_trained": sum(weights[name] for name in never_trained(config, vocab_size, seed)),
        "embedding": embedding,
        "tied_total": sum(weights.values()),
        "padding": -vocab_size % ALIGNMENT * config.d_model,
        "active": nodes,
        "active_definition": ACTIVE,
        "edges": topology.edges,
        "topology_hash": topology.hash,
        "flops_per_token": flops_per_token(config, vocab_size, seed, seq_len),
    }
