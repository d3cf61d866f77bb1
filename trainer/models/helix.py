"""HelixLM (david-thrower/HelixLM), written anew from its description: a small graph, run several times over.

Shape key: B sequences, T tokens, D width, L loops.  At HelixConfig's defaults and 50,257 words: 86,302,726 parameters,
of which 4,201,474 are never trained, as built; docs/options.md has the formulas and the switches.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn

from trainer import helix_sizes
from trainer.helix_config import HelixConfig
from trainer.helix_topology import Topology, topology_of
from trainer.models.base import Groups, LanguageModel
from trainer.models.head import Head
from trainer.models.helix_nodes import STD, Attention, Dropout, FullAttention, Gate, Merge, Norm, node_of, total
from trainer.models.parts import rotary_tables


class Recurrence(nn.Module):
    """One loop: state ← A·state + B·embedding + graph(norm(state + loop embedding + embedding)).

    A = exp(-exp(log_dt + log_a)) lies in (0, 1) for each channel: the linear part contracts.
    """

    def __init__(self, config: HelixConfig, topology: Topology) -> None:
        super().__init__()
        dim = config.d_model
        # Plain tuples: what the compiler guards is then equal for every model of this topology.
        self.running, self.sinks = topology.running, topology.sinks
        self.inputs = tuple(topology.inputs(node) for node in range(len(topology.kinds)))
        self.log_a = nn.Parameter(torch.full((dim,), math.log(-math.log(config.lti_init_a))))
        self.log_dt = nn.Parameter(torch.zeros(()))
        self.b = nn.Parameter(torch.full((dim,), 0.1))
        self.norm = Norm(dim)
        logits = topology.gate_logits
        self.nodes = nn.ModuleList(
            node_of(kind, config, logits.get(node, 0)) for node, kind in enumerate(topology.kinds)
        )
        self.merges = nn.ModuleDict(
            {str(node): Merge(config, len(self.inputs[node])) for node in helix_sizes.merges(topology)}
        )

    def forward(self, state_BTD: Tensor, embedded_BTD: Tensor, loop_D: Tensor, *tables: Tensor) -> Tensor:
        dtype = state_BTD.dtype
        decay = (self.log_dt + self.log_a).clamp(-20, 20).exp().neg().exp().to(dtype)
        fed = self._through_graph(self.norm(state_BTD + loop_D.to(dtype) + embedded_BTD), tables)
        return decay * state_BTD + self.b.to(dtype) * embedded_BTD + fed

    def _through_graph(self, x_BTD: Tensor, tables: tuple[Tensor, ...]) -> Tensor:
        """The mean of the sinks, and the input; nodes that do not run hand the input on."""
        outputs: dict[int, Tensor] = {}
        for node in self.running:
            read = [outputs.get(source, x_BTD) for source in self.inputs[node]] or [x_BTD]
            module = self.nodes[node]
            if len(read) > 1 and not isinstance(module, Gate):
                read = [self.merges[str(node)](*read)]
            outputs[node] = module(*read, *(tables if isinstance(module, Attention) else ()))
        return total(outputs.get(sink, x_BTD) for sink in self.sinks) / len(self.sinks) + x_BTD


class Readout(nn.Module):
    """The states after each loop, weighted by adaptive halting, and the last norm."""

    threshold: Tensor

    def __init__(self, config: HelixConfig) -> None:
        super().__init__()
        self.act = config.act
        if config.act != "off":
            self.halt_weight = nn.Parameter(torch.randn(config.d_model) * STD)
            self.halt_bias = nn.Parameter(torch.zeros(()))
        # A tensor, so that its values share a graph; no part of the state.
        self.register_buffer("threshold", torch.tensor(config.act_threshold), persistent=False)
        self.norm = Norm(config.d_model)

    def forward(self, *states_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """The normed output; and the mean share of each loop in it, (L,), of weights that sum to 1 for each token."""
        if self.act == "off":
            last = [float(state is states_BTD[-1]) for state in states_BTD]
            return self.norm(states_BTD[-1]), torch.tensor(last, device=states_BTD[-1].device)
        weights = self._weights(states_BTD)
        mixed = total(weight[..., None] * state for weight, state in zip(weights, states_BTD, strict=True))
        weights_BTL = torch.stack(weights, dim=-1).detach()
        shares = (weights_BTL / weights_BTL.sum(-1, keepdim=True).clamp_min(1e-12)).flatten(0, -2).mean(0)
        return self.norm(mixed.to(states_BTD[0].dtype)), shares

    def _weights(self, states_BTD: tuple[Tensor, ...]) -> list[Tensor]:
        """(B, T) each, float32 at least: the halting probability p, what is left to 1 in the loop where the sum of the
        p reaches the threshold, nothing after it."""
        first = states_BTD[0]
        wide = torch.float64 if first.dtype == torch.float64 else torch.float32
        so_far = torch.zeros(first.shape[:-1], dtype=wide, device=first.device)
        halted = torch.zeros_like(so_far, dtype=torch.bool)
        weights = []
        for loop, state in enumerate(states_BTD):
            p = ((state.to(wide) * self.halt_weight.to(wide)).sum(-1) + self.halt_bias.to(wide)).sigmoid()
            rest = (1 - so_far).clamp_min(0)
            takes_all = self.act == "remainder" and loop == len(states_BTD) - 1
            weight = rest if takes_all else torch.where(so_far + p >= self.threshold, rest, p)
            weights.append(torch.where(halted, 0.0, weight))
            so_far = so_far + torch.where(halted, 0.0, p)
            halted = halted | (so_far >= self.threshold)
        return weights


class Helix(LanguageModel):
    """A decoder with a tied head, whose only depth is its loops.

    Args:
        config: sizes, switches and initial values.
        vocab_size: words.
        topology_seed: the graph is drawn from it, and from nothing else.
        dtype: of the activations; parameters are float32.
    """

    loops: Tensor

    def __init__(
        self, config: HelixConfig, vocab_size: int, topology_seed: int, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.config, self.vocab_size, self.topology_seed, self.dtype = config, vocab_size, topology_seed, dtype
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        nn.init.normal_(self.embedding.weight, std=STD)
        self.recurrence = Recurrence(config, topology_of(config, topology_seed))
        self.readout = Readout(config)
        self.head = Head(vocab_size, softcap=None, normed=True)
        self.register_buffer("loops", loop_table(config), persistent=False)
        self._shares: list[Tensor] = []

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor, per_token: bool = False) -> Tensor:
        output, shares = self._output(tokens_BT)
        if not self.training:
            self._shares.append(shares.detach())
        with torch.set_grad_enabled(torch.is_grad_enabled() and not per_token):
            loss: Tensor = self.head(output, self.embedding.weight, targets_BT, per_token)
        return loss

    def next_logits(self, tokens_BT: Tensor, position: int) -> Tensor:
        return self.head.logits(self._output(tokens_BT)[0][:, position], self.embedding.weight)

    def set_dropout(self, share: float | None) -> None:
        wanted = self.config.dropout if share is None else share
        for part in self.modules():
            if isinstance(part, Dropout | FullAttention):
                part.set_share(wanted)

    def _output(self, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.embedding(tokens_BT)
        embedded = (rows * self.config.d_model**0.5 if self.config.embedding_scale else rows).to(self.dtype)
        # A view, as an argument that is given twice would get a graph of its own.
        state, states, tables = embedded.view_as(embedded), [], self._tables(embedded)
        for loop in range(self.config.num_loops):
            state = self.recurrence(state, embedded, self.loops[loop], *tables)
            states.append(state)
        found: tuple[Tensor, Tensor] = self.readout(*states)
        return found

    def _tables(self, x_BTD: Tensor) -> tuple[Tensor, ...]:
        config = self.config
        return rotary_tables(x_BTD.size(1), config.head_dim, config.rope_base, x_BTD.device) if config.rope else ()

    def compile_blocks(self, backend: str = "inductor") -> None:
        torch._dynamo.config.recompile_limit = 256
        # What is dropped in training is not in validation: then each has graphs of its own, and validation needs no
        # gradients.
        self.compiled = self.config.dropout == 0
        for part in (self.recurrence, self.readout):
            part.compile(dynamic=False, fullgraph=True, backend=backend)
        self.head.compile_parts(backend)

    def groups(self) -> Groups:
        inside = [*self.recurrence.parameters(), *self.readout.parameters()]
        return {
            "embedding": [self.embedding.weight],
            "matrix": [parameter for parameter in inside if parameter.ndim == 2],
            "scalar": [parameter for parameter in inside if parameter.ndim != 2],
            "head": [],
        }

    @property
    def graph_key(self) -> Hashable:
        topology = topology_of(self.config, self.topology_seed)
        # Softmax attention alone has the share that it drops in its graph.
        dropout = self.config.dropout if {topology.kinds[node] for node in topology.running} & {"full"} else 0.5
        drawn = dataclasses.replace(
            self.config,
            dropout=dropout if self.config.dropout else 0.0,
            lti_init_a=0.5,
            act_threshold=1.0,
            lateral_p=0.0,
            vertical_p=0.0,
            vertical_depth=1,
        )
        return drawn, self.vocab_size, topology.edges

    def report(self, seq_len: int) -> dict[str, Any]:
        return helix_sizes.report(self.config, self.vocab_size, self.topology_seed, seq_len)

    def train(self, mode: bool = True) -> Helix:
        if not mode:
            self._shares = []
        super().train(mode)
        return self

    def findings(self) -> str:
        shares = self.loop_weights()
        return "share of each loop in the output: " + ", ".join(f"{share:.3f}" for share in shares) if shares else ""

    def loop_weights(self) -> list[float]:
        """Mean share of each loop in the output over the last validation; empty before there was one."""
        if not self._shares:
            return []
        means: list[float] = torch.stack(self._shares).mean(0).tolist()
        return means


def loop_table(config: HelixConfig) -> Tensor:
    """(L, D): of loop t sin(t·f) and cos(t·f) with f = 10000^(-2i / loop_dim) for i below loop_dim / 2, then zeros."""
    half = config.loop_dim // 2
    frequencies = 10_000 ** (-2 * torch.arange(half) / max(config.loop_dim, 1))
    angles = torch.outer(torch.arange(config.num_loops), frequencies)
    table = torch.zeros(config.num_loops, config.d_model)
    table[:, : 2 * half] = torch.cat((angles.sin(), angles.cos()), dim=1)
    return table
