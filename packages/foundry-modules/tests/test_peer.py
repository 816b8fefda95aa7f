"""Expert retrieval against a dense evaluation of all experts; its gradients, its keys, its row-sparse optimizer."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import nn

from foundry.core.contracts import Context, Dims
from foundry.core.testing import DIMS, Case, assert_gradients_rounded, assert_rounded, sums_of
from foundry.core.testing.case import vectors
from foundry.core.training.optimization import OptimizerSet, clip_gradients
from foundry.modules.ffn.query_norm import QueryBatchNorm
from foundry.modules.optimizer.row_sparse_adam import RowSparseAdam

SMALL = {"n_experts": 64, "heads": 2, "top_k": 5, "key_dim": 12}


def peer(activation="gelu", dims=DIMS, **params):
    return Case.of("ffn", "peer", {**SMALL, **params}, dims).layer(companion=activation, seed=3).part


def scores_of_all(layer, queries):
    """(N, heads, all experts): every sum of one score from each part, in the order of the experts' numbers."""
    parts = queries.unflatten(-1, (layer.params.product_dims, -1))
    total = torch.zeros(*queries.shape[:2], 1, dtype=queries.dtype)
    for part, keys in zip(parts.unbind(2), layer.keys, strict=True):
        total = (total[..., None] + (part @ keys.T)[:, :, None]).flatten(2)
    return total


def dense_evaluation(layer, x, gated):
    """The paper's formula with every expert computed for every token, and a gate of 0 where it is not chosen."""
    tokens, width = x.flatten(0, 1), layer.params.expert_width
    scores = scores_of_all(layer, layer._queries(tokens)[0])
    best = scores.topk(layer.params.top_k, dim=-1)
    weights = best.values.softmax(-1) if layer.params.scoring == "softmax" else best.values.sigmoid()
    gates = torch.zeros_like(scores).scatter(-1, best.indices, weights).sum(1)
    tables = [layer.gate_proj, layer.up_proj] if gated else [layer.up_proj]
    inner = [torch.einsum("nc,emc->nem", tokens, t.weight.unflatten(1, (width, -1))) for t in tables]
    hidden = layer.activation(*inner) * gates[..., None]
    return torch.einsum("nem,emc->nc", hidden, layer.down_proj.weight.unflatten(1, (width, -1))).view_as(x)


@pytest.mark.parametrize(
    ("activation", "params"),
    [
        ("gelu", {}),
        ("swiglu", {"expert_width": 3, "scoring": "sigmoid"}),
        ("relu", {"product_dims": 3, "query_norm": "none", "top_k": 7}),
        ("gelu", {"n_experts": 9, "top_k": 9}),  # all of them, with fewer keys than that in each part
        ("gelu", {"product_dims": 4, "n_experts": 81, "top_k": 11, "query_norm": "batchnorm"}),
        ("silu", {"sparse_gradients": True}),
    ],
)
def test_it_is_a_dense_evaluation_of_all_experts(activation, params):
    layer, gated = peer(activation, **params), activation == "swiglu"
    x, upstream = vectors(2, 24, DIMS), vectors(2, 24, DIMS, seed=8)
    results = []
    for function in (lambda x: layer(x, Context())[0], lambda x: dense_evaluation(layer, x, gated)):
        layer.zero_grad()
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        y.backward(upstream)
        gradients = {name: parameter.grad.to_dense() for name, parameter in layer.named_parameters()}
        results.append((y.detach(), {"x": leaf.grad, **gradients}))
    (y, gradients), (expected, of_expected) = results
    assert_rounded(y, expected, *sums_of(layer))
    assert_gradients_rounded(gradients, of_expected, *sums_of(layer, tokens=2 * 24))


@pytest.mark.parametrize(("n", "d", "k"), [(8, 2, 16), (8, 2, 1), (3, 2, 9), (5, 3, 12), (2, 6, 33), (16, 2, 32)])
def test_pruned_retrieval_is_exact(n, d, k):
    layer = peer(n_experts=n**d, product_dims=d, top_k=k, key_dim=4 * d)
    queries = torch.randn(300, 2, 4 * d, generator=torch.Generator().manual_seed(1))
    scores, ids = layer.retrieve(queries)
    every = scores_of_all(layer, queries)
    expected = every.topk(k, dim=-1)
    assert_rounded(scores, expected.values, *[4] * d)
    assert_rounded(every.gather(-1, ids), expected.values, *[4] * d)
    assert (ids.sort().values.diff() > 0).all()  # no expert twice


@pytest.mark.parametrize(("n", "d"), [(8, 2), (4, 3)])
def test_every_expert_can_be_reached(n, d):
    """A query that points at one sub-key in each part finds the expert of just these, and each expert has its own."""
    layer = peer(n_experts=n**d, product_dims=d, top_k=3, key_dim=4 * d)
    with torch.no_grad():
        layer.keys.copy_(F.normalize(layer.keys, dim=-1))
    numbers = torch.cartesian_prod(*[torch.arange(n)] * d)
    queries = torch.cat([layer.keys[part][numbers[:, part]] for part in range(d)], dim=-1)
    _, ids = layer.retrieve(queries[:, None])
    assert ids[:, 0, 0].tolist() == list(range(n**d))


def test_keys_and_queries_learn():
    layer = peer()
    layer(vectors(2, 24, DIMS), Context())[0].square().sum().backward()
    for parameter in (layer.keys, layer.query_proj.weight, layer.query_norm.weight):
        assert parameter.grad.abs().max() > 0


def test_the_whole_layer_in_fp64():
    layer = peer(n_experts=16, top_k=3, key_dim=8, dims=Dims(2, 2, 6, 3, 8)).double()
    x = vectors(1, 3, Dims(2, 2, 6, 3, 8)).double().requires_grad_()
    names = [name for name, _ in layer.named_parameters()]

    def function(x, *tensors):
        return torch.func.functional_call(layer, dict(zip(names, tensors, strict=True)), (x, Context()))[0]

    assert torch.autograd.gradcheck(function, (x, *(p.detach().requires_grad_() for p in layer.parameters())))


@pytest.mark.parametrize("n_experts", [4096, 4])
def test_autocast_leaves_the_rows_products_alone(n_experts):
    """Also where more rows are chosen than the table has, which batched products do, as on a GPU."""
    layer, x = peer(n_experts=n_experts, top_k=3, query_norm="none"), vectors(2, 24, DIMS)
    queries = layer.query_proj(x.flatten(0, 1)).unflatten(-1, (2, -1)).detach().requires_grad_()
    expected = layer.retrieve(queries)[0]
    with torch.autocast("cpu", torch.bfloat16):
        scores = layer.retrieve(queries)[0]
        y, _ = layer(x, Context())
    assert_rounded(scores, expected, *sums_of(layer))
    (scores.sum() + y.float().sum()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_retrieval_is_as_exact_in_bf16():
    layer = peer(n_experts=4096).bfloat16()
    queries = layer._queries(vectors(2, 24, DIMS).bfloat16().flatten(0, 1))[0]
    scores, _ = layer.retrieve(queries)
    exact = scores_of_all(layer.double(), queries.double()).topk(5, dim=-1).values
    assert_rounded(scores, exact.float(), *sums_of(layer))


def test_what_an_expert_reads_begins_with_variance_1_and_what_it_writes_is_small():
    layer = peer("swiglu", replace(DIMS, n_layer=8), n_experts=1024, expert_width=2)
    for table, variance in ((layer.gate_proj, 1 / 32), (layer.up_proj, 1 / 32), (layer.down_proj, 1 / (32 * 2 * 16))):
        assert table.weight.var().item() == pytest.approx(variance, rel=0.05)  # n_embd; expert_width, 2 n_layer


@pytest.mark.parametrize(
    ("params", "sparse"),
    [
        ({"n_experts": 65_536}, True),
        ({"n_experts": 65_025}, False),
        ({"n_experts": 65_536, "sparse_gradients": False}, False),
    ],
)
def test_gradients_are_row_sparse_from_65536_experts_on(params, sparse):
    layer = peer(**params)
    layer(vectors(1, 4, DIMS), Context())[0].sum().backward()
    assert layer.up_proj.weight.grad.is_sparse == layer.down_proj.weight.grad.is_sparse == sparse


def test_nothing_of_the_size_of_the_retrieved_rows_is_kept():
    layer, x, kept = peer(top_k=16, heads=4), vectors(2, 24, DIMS), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x, Context())
    weights = {p.data_ptr() for p in layer.parameters()}
    largest = max(t.numel() for t in kept if t.data_ptr() not in weights)
    assert largest <= 48 * 4 * 16  # a number for each token and each of its experts; their rows are 32 times that


def test_a_tokens_experts_do_not_depend_on_what_follows():
    layer = peer()
    x = vectors(1, 24, DIMS)
    _, ids = layer.retrieve(layer._queries(x[0])[0])
    for t in (1, 12, 23):
        changed = torch.cat((x[0, :t], -100 * x[0, t:]))
        assert torch.equal(layer.retrieve(layer._queries(changed)[0])[1][:t], ids[:t])


def test_batch_norm_is_torchs():
    ours, theirs = QueryBatchNorm(6, layer=0).train(), nn.BatchNorm1d(6).train()
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        q, upstream = torch.randn(2, 40, 6, generator=generator) * 3 + 1
        mine, their = q.clone().requires_grad_(), q.clone().requires_grad_()
        (y, counts), expected = ours(mine), theirs(their)
        assert_rounded(y, expected, *sums_of(ours), 40)
        y.backward(upstream)
        expected.backward(upstream)
        assert_rounded(mine.grad, their.grad, *sums_of(ours, tokens=40), 40)
        before = ours.running_mean.clone()
        ours(q)  # computed again: nothing happens
        assert torch.equal(ours.running_mean, before)
        ours.after_step(counts)
    assert_rounded(ours.running_mean, theirs.running_mean, 40, 3)
    assert_rounded(ours.running_var, theirs.running_var, 40, 40, 3)
    assert_rounded(ours.eval()(q)[0], theirs.eval()(q), *sums_of(ours), 40, 40)


@pytest.mark.parametrize("query_norm", ["rmsnorm", "batchnorm"])
def test_what_is_no_token_is_in_no_load_and_no_statistics(query_norm):
    layer, x = peer(query_norm=query_norm).train(), vectors(2, 24, DIMS)
    real = torch.ones(2, 24, dtype=torch.bool)
    real[0, 15:] = real[1, :4] = False
    expected, alone = layer(x[real][None], Context())
    padded = x.where(real[..., None], 3.0).requires_grad_()
    y, aux = layer(padded, Context(is_token=real))
    assert_rounded(y[real], expected[0], *sums_of(layer), 35)
    assert int(aux["peer_0_load"].sum()) == 35 * 2 * 5  # tokens, heads, top_k
    assert aux.keys() == alone.keys()
    for name, value in alone.items():
        assert_rounded(aux[name], value, *sums_of(layer), 35, dtype=torch.float32)
    y[real].square().sum().backward()
    assert (padded.grad.abs().sum(-1) > 0).equal(real)


# ---- the optimizer of row-sparse tables --------------------------------------------------------------------------


class Tables(nn.Module):
    """A table with row-sparse gradients, one with dense ones, and a matrix in a layer."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.sparse, self.dense = nn.Embedding(50, 4, sparse=True), nn.Embedding(50, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4)])
        for parameter in self.parameters():
            parameter.data.normal_(generator=generator)

    def loss(self, step):
        ids = torch.randint(50, (12,), generator=torch.Generator().manual_seed(step))
        return self.layers[0](self.sparse(ids) * self.dense(ids)).square().sum()

    def train_on(self, optimizers, steps):
        for step in steps:
            self.zero_grad()
            for half in (2 * step, 2 * step + 1):  # two micro-batches
                self.loss(half).backward()
            for optimizer in optimizers:
                optimizer.step()


def test_row_sparse_adam_is_torchs_sparse_adam():
    ours, theirs = Tables(), Tables()
    rest = [theirs.dense.weight, *theirs.layers.parameters()]
    betas, eps = (0.9, 0.95), 0.1  # large enough to be seen
    reference = [torch.optim.SparseAdam([theirs.sparse.weight], 0.01, betas, eps), torch.optim.AdamW(rest, 0.01, betas)]
    plain = [torch.optim.AdamW([ours.dense.weight, *ours.layers.parameters()], 0.01, betas)]
    ours.train_on([RowSparseAdam([ours.sparse.weight], 0.01, betas, eps), *plain], range(8))
    theirs.train_on(reference, range(8))
    # 8 steps of 2 micro-batches of 12 tokens; a large eps does not blow up the noise of small gradients.
    assert_rounded(ours.sparse.weight, theirs.sparse.weight, *sums_of(ours, tokens=24) * 8)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_optimizers_put_such_tables_into_it_and_go_on_from_a_checkpoint(name):
    case = Case.of("optimizer", name, {"weight_decay": 0.1})
    straight, resumed = Tables(), Tables()
    optimizers = case.build(straight, 0.01)
    owner = [o for o in optimizers if any(p is straight.sparse.weight for g in o.param_groups for p in g["params"])]
    assert [type(optimizer) for optimizer in owner] == [RowSparseAdam]
    OptimizerSet(optimizers, straight)  # each parameter in one group
    straight.train_on(optimizers, range(6))
    optimizers = case.build(resumed, 0.01)
    resumed.train_on(optimizers, range(3))
    saved = load(save(OptimizerSet(optimizers, resumed).tensors()))
    again = case.build(resumed, 0.01)
    OptimizerSet(again, resumed).load(saved)
    resumed.train_on(again, range(3, 6))
    for key, tensor in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], tensor), key


def test_rows_that_were_not_used_stay_as_they_are():
    model = Tables()
    before = model.sparse.weight.detach().clone()
    model.train_on(Case.of("optimizer", "adamw", {"weight_decay": 0.1}).build(model, 0.01), range(1))
    used = torch.cat([torch.randint(50, (12,), generator=torch.Generator().manual_seed(s)) for s in (0, 1)]).unique()
    moved = (model.sparse.weight != before).any(1).nonzero()[:, 0]
    assert torch.equal(moved, used)


@pytest.mark.parametrize("max_norm", [0.0, 0.5, 1e9])
def test_clipping_counts_row_sparse_gradients_as_what_they_add_up_to(max_norm):
    sparse, dense = Tables(), Tables()
    dense.sparse.sparse = False
    for model in (sparse, dense):
        model.loss(0).backward()
        model.loss(0).backward()  # the same rows again: their gradients lie in two entries
    norms = [clip_gradients(list(model.parameters()), max_norm) for model in (sparse, dense)]
    assert_rounded(*norms, *sums_of(sparse, tokens=24), sum(each.numel() for each in dense.parameters()))
    for mine, their in zip(sparse.parameters(), dense.parameters(), strict=True):
        assert_rounded(mine.grad.to_dense(), their.grad, *sums_of(sparse, tokens=24))


@pytest.mark.parametrize(
    ("params", "key", "words"),
    [
        ({"n_experts": 1000}, "n_experts", "try 961 or 1_024"),
        ({"n_experts": 64, "top_k": 65}, "top_k", "more than n_experts 64"),
        ({"n_experts": 64, "product_dims": 3, "key_dim": 64}, "key_dim", "not a multiple of product_dims 3; try 66"),
    ],
)
def test_impossible_settings_are_named(params, key, words):
    ((problem_key, problem),) = Case.of("ffn", "peer", params).params.problems(DIMS)
    assert problem_key == key
    assert words in problem
