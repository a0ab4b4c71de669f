"""Hidden units of recurrent layers: what is cut equals an unrolled network whose states are masked step by step."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from pipeline.compression import criteria, hidden, macs, structure, units, widths
from pipeline.compression.sight import Sight


class Gated(nn.Module):
    """Two layers, two ways, read at the last step."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 10, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(20, 5)

    def forward(self, x):
        return self.head(torch.relu(self.rnn(x)[0][:, -1]))


class Final(nn.Module):
    """Read through the final states of both ways, in an order of its own."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(4, 9, num_layers=2, bidirectional=True, batch_first=True)
        self.norm, self.head = nn.BatchNorm1d(18), nn.Linear(18, 5)

    def forward(self, x):
        _, (h, _) = self.rnn(x)
        return self.head(self.norm(torch.cat([h[-1], h[-2]], 1)))


class Chained(nn.Module):
    """One recurrent layer reads another; every step of the second goes to the head."""

    def __init__(self):
        super().__init__()
        self.below, self.rnn = nn.GRU(4, 8), nn.LSTM(8, 12)
        self.head = nn.Linear(12 * 7, 5)

    def forward(self, x):
        x = self.rnn(self.below(x.transpose(0, 1))[0])[0]
        return self.head(x.permute(1, 2, 0).flatten(1))


class Plain(nn.Module):
    """Convolution, simple recurrence, a side road past it, a mean."""

    def __init__(self):
        super().__init__()
        self.conv, self.rnn = nn.Conv1d(4, 6, 3, padding=1), nn.RNN(6, 11, batch_first=True)
        self.head = nn.Linear(17, 5)

    def forward(self, x):
        x = torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        return self.head(torch.cat([self.rnn(x)[0].mean(1), x.mean(1)], 1))


NETS = [Gated, Final, Chained, Plain]
CELLS = {nn.GRU: nn.GRUCell, nn.LSTM: nn.LSTMCell, nn.RNN: nn.RNNCell}


class Unrolled(nn.Module):
    """A recurrent layer step by step, its states multiplied by masks [place][hidden] after each."""

    def __init__(self, layer, masks):
        super().__init__()
        self.layer, self.masks = layer, masks

    def forward(self, x):
        layer, ends = self.layer, []
        x = x.transpose(0, 1) if layer.batch_first else x
        for number in range(layer.num_layers):
            ways = []
            for way in ("", "_reverse")[: 1 + layer.bidirectional]:
                cell = CELLS[type(layer)](x.shape[-1], layer.hidden_size)
                cell.load_state_dict(
                    {k: getattr(layer, f"{k}_l{number}{way}") for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
                )
                mask = self.masks[len(ends)]
                h, said = (torch.zeros(2, x.shape[1], layer.hidden_size) if isinstance(layer, nn.LSTM) else None), []
                for step in x.flip(0) if way else x:
                    if isinstance(layer, nn.LSTM):
                        h, c = cell(step, tuple(h))
                        h = (h * mask, c)
                        said.append(h[0])
                    else:
                        h = cell(step, h) * mask
                        said.append(h)
                ends.append(said[-1])
                ways.append(torch.stack(said[::-1] if way else said))
            x = torch.cat(ways, -1)
        ends = torch.stack(ends)
        return x.transpose(0, 1) if layer.batch_first else x, (ends, ends) if isinstance(layer, nn.LSTM) else ends


def made(kind):
    torch.manual_seed(0)
    return kind().eval(), torch.randn(6, 7, 4)


@pytest.mark.parametrize("kind", NETS)
def test_pruned_equals_the_original_with_its_states_masked_at_every_step(kind):
    model, x = made(kind)
    groups, kept = hidden.groups(model, (x[:2],))
    assert not kept
    generator = torch.Generator().manual_seed(1)
    removed = [(g, torch.randperm(g.width, generator=generator)[: g.width // 3].tolist()) for g in groups]
    edits = structure.edits_for(model, removed)
    cut = copy.deepcopy(model)
    structure.apply(cut, edits)
    for group, gone in removed:
        layer, smaller = model.get_submodule(group.name), cut.get_submodule(group.name)
        assert type(smaller) is type(layer)
        assert smaller.hidden_size == layer.hidden_size - len(gone) == smaller.weight_hh_l0.shape[1]
        masks = []
        for edit in edits:
            if edit["module"] == group.name and edit["axis"].startswith("state"):
                masks.append(torch.ones(layer.hidden_size))
                masks[-1][edit["removed"]] = 0
        setattr(model, group.name, Unrolled(layer, masks))
    with torch.no_grad():
        torch.testing.assert_close(cut(x), model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("share", [0.5, 0.2])
def test_a_budget_that_channels_alone_cannot_meet_is_met(kind, share):
    model, x = made(kind)
    counted = macs.count(model, (x[:2],))
    groups, _ = units.groups(["hidden", "channel"], model, (x[:2],))
    cost = structure.cost(model, groups, counted.layers)
    left = widths.solve([g.width for g in groups], cost, int(share * counted.macs), align=1, tolerance=0.2)
    structure.apply(
        model, structure.edits_for(model, [(g, range(g.width - n)) for g, n in zip(groups, left, strict=True)])
    )
    assert macs.count(model, (x[:2],)).macs == cost(left) <= share * counted.macs


def test_units_of_stacked_layers_and_ways_are_matched_by_rank():
    model, x = made(Gated)
    places = ["l0", "l0_reverse", "l1", "l1_reverse"]
    weak = dict(zip(places, [3, 7, 0, 5], strict=True))
    with torch.no_grad():
        for place, unit in weak.items():
            for gate in range(3):
                getattr(model.rnn, f"weight_ih_{place}")[gate * 10 + unit] = 0
                getattr(model.rnn, f"weight_hh_{place}")[gate * 10 + unit] = 0
            getattr(model.rnn, f"weight_hh_{place}")[:, unit] = 0
    (group,), _ = hidden.groups(model, (x[:2],))
    edits = structure.edits_for(model, [(group, [0])])
    assert {e["axis"].removeprefix("state "): e["removed"] for e in edits if e["axis"].startswith("state")} == {
        place: [unit] for place, unit in weak.items()
    }
    assert next(e["removed"] for e in edits if e["module"] == "head") == [weak["l1"], 10 + weak["l1_reverse"]]
    assert next(e["removed"] for e in edits if e["axis"] == "in l1") == [weak["l0"], 10 + weak["l0_reverse"]]


@pytest.mark.parametrize("name", [name for name in criteria.CRITERIA if name not in ("bn_scale", "contribution")])
def test_every_criterion_scores_hidden_units_and_finds_the_one_that_does_nothing(name):
    model, x = made(Plain)
    with torch.no_grad():  # what it says is constant and nobody reads it
        for rows in (model.rnn.weight_ih_l0, model.rnn.weight_hh_l0, model.rnn.bias_ih_l0, model.rnn.bias_hh_l0):
            rows[4] = 0
        model.rnn.weight_hh_l0[:, 4] = 0
        model.head.weight[:, 4] = 0
    (group,), _ = hidden.groups(model, (x[:2],))
    scores = criteria.score(name, Sight(model, [group], (x,), torch.arange(6) % 5))[0]
    assert scores.shape == (11,)
    if name not in ("random", "fpgm"):  # weakest of all, so of rank 0; a median filter is another question
        assert scores[0] == scores.min()


@pytest.mark.parametrize("kind", [Gated, Final])
def test_a_contribution_is_the_loss_after_real_removal(kind):
    model, x = made(kind)
    labels = torch.arange(6) % 5
    (group,), _ = hidden.groups(model, (x[:2],))
    found = criteria.score("contribution", Sight(model, [group], (x,), labels))[0]
    with torch.no_grad():
        whole = nn.functional.cross_entropy(model(x), labels)
        for unit in range(group.width):
            cut = copy.deepcopy(model)
            structure.apply(cut, structure.edits_for(cut, [(group, [unit])]))
            torch.testing.assert_close(
                found[unit], nn.functional.cross_entropy(cut(x), labels) - whole, atol=1e-5, rtol=0
            )


class Projected(Gated):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 10, proj_size=3, batch_first=True), nn.Linear(3, 5)


class Out(Gated):
    def forward(self, x):
        return self.rnn(x)[0][:, -1]


class Mixed(Gated):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(20)

    def forward(self, x):
        return self.head(self.norm(self.rnn(x)[0][:, -1]))


class Started(Gated):
    def forward(self, x):
        return self.head(self.rnn(x, torch.zeros(4, len(x), 10))[0][:, -1])


class Packed(Gated):
    def forward(self, x):
        return self.head(self.rnn(pack_sequence(list(x)))[1][-2:].transpose(0, 1).flatten(1))


class Idle(Gated):
    def forward(self, x):
        return self.head(torch.cat([x, x, x, x, x], 2).mean(1))


class Twice(Gated):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(20, 5)
        self.other.weight = self.head.weight

    def forward(self, x):
        x = self.rnn(x)[0][:, -1]
        return self.head(x) + self.other(x)


class Added(Gated):
    def __init__(self):
        super().__init__()
        self.side = nn.Linear(4, 20)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1] + self.side(x[:, -1]))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Projected, "it projects its hidden state (proj_size)"),
        (Out, "its units reach the model's output"),
        (Mixed, "its units are mixed with each other before 'head' reads them"),
        (Started, "without some of its channels the model does not run: Expected hidden size"),
        (Packed, "it runs on packed sequences"),
        (Idle, "it is not run"),
        (Twice, "it reaches 'head', which shares a parameter with another layer"),
        (Added, "does not run: The size of tensor a"),
    ],
)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")  # only slower, says torch
def test_what_cannot_be_cut_stays_whole_and_says_why(kind, reason):
    model, x = made(kind)
    groups, kept = hidden.groups(model, (x[:2],))
    assert not groups
    assert [one.name for one in kept] == ["rnn"]
    assert reason in kept[0].reason
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
