"""Losses on representations against NumPy in float64, their gradients, and what each family gives them."""

import itertools

import numpy as np
import pytest
import torch
from compact import build_compact_model
from torch.autograd import gradcheck

from kdexp.errors import UserError
from kdexp.loss.features import FeatureTerms, attention_modules, layer_pairs, recorded
from kdexp.loss.pooling import pool, pool_attention
from kdexp.loss.terms import CKA, PKD, RKD, TERMS, Attention, Hidden, MiniLM, Pooling, Reads
from kdexp.model import families
from kdexp.model.forward import accepted_inputs
from kdexp.task.kinds.single_label import SingleLabel

TEXTS = ["the film was good and the plot was dull, not fine!", "never seen", "a bad actor: superb, quite superb"]
WORD_MASK = torch.tensor([[True] * 4, [True, True, False, False], [True, True, True, False]])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def huber(x):
    return np.where(np.abs(x) < 1, x**2 / 2, np.abs(x) - 0.5)


def numpy_pkd(s, t):
    return np.mean(
        (s / np.linalg.norm(s, axis=-1, keepdims=True) - t / np.linalg.norm(t, axis=-1, keepdims=True)) ** 2
    )


def numpy_rkd(s, t):
    losses = []
    for layer in range(s.shape[1]):
        pairs = list(itertools.permutations(range(len(s)), 2))
        distances = [np.array([np.linalg.norm(x[i, layer] - x[j, layer]) for i, j in pairs]) for x in (s, t)]
        distances = [d / d.mean() for d in distances]

        def angle(x, i, j, k, layer=layer):
            a, b = x[i, layer] - x[j, layer], x[k, layer] - x[j, layer]
            return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

        triplets = list(itertools.permutations(range(len(s)), 3))
        angles = [np.array([angle(x, *triplet) for triplet in triplets]) for x in (s, t)]
        losses.append(huber(distances[0] - distances[1]).mean() + 2 * huber(angles[0] - angles[1]).mean())
    return np.mean(losses)


def numpy_cka(s, t):
    losses = []
    for layer in range(s.shape[1]):
        x, y = (v[:, layer] - v[:, layer].mean(0) for v in (s, t))
        losses.append(1 - np.sum((y.T @ x) ** 2) / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y))
    return np.mean(losses)


def numpy_hidden(s, t, mask):
    return np.mean(
        [sum(np.mean((s[b, m][mask[b]] - t[b, m][mask[b]]) ** 2) for m in range(s.shape[1])) for b in range(len(s))]
    )


def numpy_attention(s, t, mask):
    def maps(x, b, m):
        return x[b, m][:, mask[b]][:, :, mask[b]]

    return np.mean(
        [sum(np.mean((maps(s, b, m) - maps(t, b, m)) ** 2) for m in range(s.shape[1])) for b in range(len(s))]
    )


def numpy_minilm(s, t, mask, num_heads):
    def relations(x, b, m, r, a):
        d = x.shape[-1] // num_heads
        one = x[b, m, r][mask[b], a * d : (a + 1) * d]
        return softmax(one @ one.T / np.sqrt(d))

    losses = []
    for b, m in itertools.product(range(len(s)), range(s.shape[1])):
        total = 0
        for r in range(3):
            for a in range(num_heads):
                p, q = relations(t, b, m, r, a), relations(s, b, m, r, a)
                total += np.mean(np.sum(p * np.log(p / q), -1)) / num_heads
        losses.append(total)
    return np.mean(losses)


def heads(projections, num_heads):
    return projections.unflatten(-1, (num_heads, -1)).transpose(-2, -3)


def numpy_minilm_of_heads(s, t, mask):
    joined = [np.swapaxes(x, -2, -3).reshape(*x.shape[:3], x.shape[4], -1) for x in (s, t)]
    return numpy_minilm(*joined, mask, num_heads=s.shape[3])


MAPS = [softmax(normal(3, 2, 4, 4, 4, seed=seed).numpy()) for seed in (0, 1)]
CASES = {
    "pkd": (PKD(), numpy_pkd, normal(5, 2, 6), normal(5, 2, 6, seed=1), ()),
    "rkd": (RKD(), numpy_rkd, normal(5, 2, 3), normal(5, 2, 6, seed=1), ()),
    "cka": (CKA(), numpy_cka, normal(5, 2, 3), normal(5, 2, 6, seed=1), ()),
    "hidden": (Hidden(), numpy_hidden, normal(3, 2, 4, 6), normal(3, 2, 4, 6, seed=1), (WORD_MASK,)),
    "attention": (Attention(), numpy_attention, *(torch.tensor(m) for m in MAPS), (WORD_MASK,)),
    "minilm": (
        MiniLM(),
        numpy_minilm_of_heads,
        heads(normal(3, 2, 3, 4, 4), 2),
        heads(normal(3, 2, 3, 4, 8, seed=1), 2),
        (WORD_MASK,),
    ),
}
# Values and gradients' norms of the functions that these classes replaced, on the same features in float32.
BEFORE = {
    "pkd": (0.249611288, 0.0320826471),
    "rkd": (0.202647582, 0.130762801),
    "cka": (0.256928623, 0.13560237),
    "hidden": (1.83529377, 0.250834137),
    "attention": (0.0515266992, 0.0315715075),
    "minilm": (0.581581414, 0.107997075),
}


def test_every_term_is_tested():
    assert {name: type(term) for name, (term, *_) in CASES.items()} == TERMS


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_what_they_were(name):
    term, _, student, teacher, mask = CASES[name]
    student, teacher = student.float().requires_grad_(), teacher.float()
    value = term(student, teacher, *mask, num_examples=7)
    (gradient,) = torch.autograd.grad(value, student)
    assert (value.item(), gradient.norm().item()) == pytest.approx(BEFORE[name], rel=3e-7)


@pytest.mark.parametrize("name", CASES)
def test_every_term_runs_over_a_batch_of_problems(name):
    """`vmap` gives what a loop gives, of values and of gradients."""
    term, _, student, teacher, mask = CASES[name]
    students, teachers = torch.stack([student, student.flip(0)]), torch.stack([teacher, 2 * teacher])
    inputs = (students, teachers, *(torch.stack([each, each.flip(0)]) for each in mask))
    for compute in (term, torch.func.grad(term)):
        looped = torch.stack([compute(*problem) for problem in zip(*inputs, strict=True)])
        torch.testing.assert_close(torch.func.vmap(compute)(*inputs), looped)


@pytest.mark.parametrize("name", CASES)
def test_terms_agree_with_numpy(name):
    term, oracle, student, teacher, mask = CASES[name]
    expected = oracle(student.numpy(), teacher.numpy(), *(each.numpy() for each in mask))
    assert expected > 0.01
    assert term(student, teacher, *mask).item() == pytest.approx(expected, rel=1e-9)
    assert term(student, teacher, *mask, num_examples=100).item() == pytest.approx(
        expected * len(student) / 100, rel=1e-9
    )


@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_the_student_and_never_the_teacher(name):
    term, _, student, teacher, mask = CASES[name]
    student, teacher = student.clone().requires_grad_(), teacher.clone().requires_grad_()
    assert gradcheck(lambda x: term(x, teacher.detach(), *mask), (student,))
    term(student, teacher, *mask).backward()
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("name", CASES)
def test_terms_vanish_where_student_and_teacher_are_the_same(name):
    term, _, student, _, mask = CASES[name]
    assert term(student, student, *mask).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["pkd", "hidden", "attention", "minilm"])
def test_micro_batches_add_up_to_the_large_batch(name):
    term, _, student, teacher, mask = CASES[name]
    parts = [
        term(student[rows], teacher[rows], *(each[rows] for each in mask), num_examples=len(student))
        for rows in (slice(0, 1), slice(1, None))
    ]
    assert sum(parts).item() == pytest.approx(term(student, teacher, *mask).item(), rel=1e-9)


@pytest.mark.parametrize("name", ["hidden", "attention", "minilm"])
def test_padding_never_counts(name):
    term, _, student, teacher, mask = CASES[name]
    before = term(student, teacher, *mask)
    disturbed = student.clone()
    disturbed.select(-2, 3)[1] = 1e3
    if name == "attention":
        disturbed.select(-1, 3)[1] = 1e3
    assert term(disturbed, teacher, *mask).item() == pytest.approx(before.item(), rel=1e-12)
    assert term(student, teacher, torch.zeros_like(WORD_MASK)).item() == 0


@pytest.mark.parametrize("term", [RKD(), CKA()])
def test_equal_rows_and_small_batches_have_finite_gradients(term):
    student = normal(4, 1, 3)[[0, 0, 1, 2]].requires_grad_()
    term(student, normal(4, 1, 6)[[0, 0, 1, 2]]).backward()
    assert student.grad.abs().max() < 100
    two = normal(2, 1, 3).requires_grad_()
    value = term(two, normal(2, 1, 6))
    value.backward()
    assert value == 0
    assert not two.grad.any()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Hidden(weight=-1), "weight: got -1; expected a finite number of at least 0"),
        (lambda: Hidden(weight_end=float("inf")), "weight_end: got inf; expected a finite number of at least 0"),
        (lambda: RKD(layers="first"), "layers: got first; expected uniform, last, or a list of layer numbers"),
        (lambda: RKD(layers=[]), "layers: got .*; expected uniform, last, or a list of layer numbers"),
        (lambda: RKD(layers=[1.5]), "layers: got .*; expected uniform, last, or a list of layer numbers"),
    ],
)
def test_a_constructor_names_its_argument(make, error):
    with pytest.raises(UserError, match=f"^{error}"):
        make()


@pytest.mark.parametrize(("kind", "setting"), [(RKD, "alignment"), (Hidden, "pooling")])
def test_a_term_has_only_the_settings_that_it_uses(kind, setting):
    with pytest.raises(TypeError, match=setting):
        kind(**{setting: "mean"})


def test_attention_of_models_with_other_heads_compares_their_means():
    student, teacher = torch.tensor(MAPS[0]), torch.tensor(MAPS[1])[:, :, :2]
    expected = numpy_attention(
        student.numpy().mean(2, keepdims=True), teacher.numpy().mean(2, keepdims=True), WORD_MASK.numpy()
    )
    assert Attention()(student, teacher, WORD_MASK).item() == pytest.approx(expected)


def test_pooling_reads_the_first_token_or_the_mean_of_all_but_padding():
    states = normal(2, 1, 4, 3)
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
    assert torch.equal(pool(states, mask, Pooling.cls), torch.stack([states[0, :, 0], states[1, :, 1]]))
    expected = torch.stack([states[0, :, :3].mean(1), states[1, :, 1:].mean(1)])
    torch.testing.assert_close(pool(states, mask, Pooling.mean), expected)


def test_attention_between_words_by_hand():
    maps = torch.tensor([[0.2, 0.1, 0.3, 0.4], [0.2, 0.5, 0.1, 0.2], [0.4, 0.3, 0.1, 0.2], [0.0, 0.6, 0.2, 0.2]])
    words = torch.tensor([[-1, 0, 0, 1]])  # a special token, a word of two sub-words, a word of one
    # Word 0 looks at itself with (0.5 + 0.1 + 0.3 + 0.1) / 2 and at word 1 with (0.2 + 0.2) / 2.
    expected = torch.tensor([[0.5 / 0.7, 0.2 / 0.7], [0.8, 0.2]])
    torch.testing.assert_close(pool_attention(maps[None, None, None], words, 2)[0, 0, 0], expected)


def test_layer_maps():
    assert layer_pairs("uniform", 4, 12) == [(1, 3), (2, 6), (3, 9), (4, 12)]
    assert layer_pairs("uniform", 2, 3) == [(1, 2), (2, 3)]
    assert layer_pairs("last", 4, 12) == [(4, 12)]
    assert layer_pairs([3, 1], 2, 3) == [(1, 3), (2, 1)]
    with pytest.raises(UserError, match=r"^layers: names 1 layers .* the student has 2"):
        layer_pairs([3], 2, 3)
    with pytest.raises(UserError, match=r"names layer 4; the teacher has layers 1 to 3"):
        layer_pairs([1, 4], 2, 3)


def compact(family, *, width=16, num_layers=2, num_heads=2, seed=0):
    tokenizer = families.train_tokenizer(family, TEXTS * 5, vocab_size=320, max_length=24)
    config = families.compact_config(
        family, tokenizer, num_layers=num_layers, hidden_size=width, num_heads=num_heads, max_length=24,
        head=SingleLabel(["a", "b"]).head_config(),
    )  # fmt: skip
    torch.manual_seed(seed)
    model = build_compact_model(config).eval()
    model.set_attn_implementation("eager")
    return model, tokenizer


ALL_TERMS = {name: kind() for name, kind in TERMS.items()}


def summaries(terms, model, tokenizer, side):
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    words = torch.where(
        inputs["attention_mask"].bool(), torch.arange(inputs["input_ids"].shape[1])[None], torch.tensor(-1)
    )
    with recorded(model, terms.reads) as features:
        outputs = model(**accepted_inputs(model, dict(inputs)), **features.flags)
    read = terms.student_features if side == "student" else terms.teacher_features
    mask = words >= 0
    return read(outputs, features, inputs["attention_mask"], words, words.shape[1]), mask, outputs


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_family_gives_what_the_terms_compare(family):
    model, tokenizer = compact(family)
    terms = FeatureTerms(model.config, model.config, ALL_TERMS)
    student, mask, outputs = summaries(terms, model, tokenizer, "student")
    teacher, _, _ = summaries(terms, model, tokenizer, "teacher")
    batch, words = mask.shape
    assert student["hidden"].shape == (batch, 3, words, 16)
    assert student["attention"].shape == (batch, 2, 2, words, words)
    assert student["minilm"].shape == (batch, 2, 3, words, 16)
    torch.testing.assert_close(student["pkd"][:, 1], outputs.hidden_states[2][:, 0])
    torch.testing.assert_close(student["hidden"][0, 0], outputs.hidden_states[0][0])
    for name, value in terms(student, teacher, mask).items():
        assert value.item() == pytest.approx(0, abs=1e-6), name
    # Queries and keys are those that the model's own attention was made of: for plain attention they give it again.
    if family in ("bert", "roberta", "distilbert", "electra", "xlm_roberta", "albert"):
        query, key, _ = student["minilm"][0, 1].unflatten(-1, (2, 8)).transpose(1, 2)
        again = torch.softmax(query @ key.transpose(-1, -2) / 8**0.5 + (~mask[0])[None, None] * -1e9, dim=-1)
        torch.testing.assert_close(student["attention"][0, 1][:, mask[0]], again[:, mask[0]], rtol=1e-4, atol=1e-5)
    other, _ = compact(family, seed=1)
    for name, value in terms(student, summaries(terms, other, tokenizer, "teacher")[0], mask).items():
        assert value > 1e-5, name


def test_projections_bridge_widths_and_learn():
    narrow, tokenizer = compact("bert", width=8)
    wide, _ = compact("bert", width=16, num_layers=3, num_heads=4, seed=1)
    terms = FeatureTerms(narrow.config, wide.config, ALL_TERMS, seed=3)
    assert sorted(terms.projections) == ["hidden", "hidden_embeddings", "pkd"]
    assert terms.num_relation_heads == 4
    student, mask, _ = summaries(terms, narrow, tokenizer, "student")
    teacher, _, _ = summaries(terms, wide, tokenizer, "teacher")
    optimizer = torch.optim.Adam(terms.parameters(), lr=1e-2)
    student = {name: tensor.detach() for name, tensor in student.items()}
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        realised = terms(student, teacher, mask)
        values.append({name: value.item() for name, value in realised.items()})
        (realised["hidden"] + realised["pkd"]).backward()
        optimizer.step()
    assert values[-1]["hidden"] < 0.9 * values[0]["hidden"]
    assert values[-1]["pkd"] < 0.9 * values[0]["pkd"]
    assert values[-1]["minilm"] == values[0]["minilm"]
    # The first weights depend on the seed alone, and leave torch's random state as it was.
    state = torch.random.get_rng_state()
    again = FeatureTerms(narrow.config, wide.config, ALL_TERMS, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    other = FeatureTerms(narrow.config, wide.config, ALL_TERMS, seed=4)
    first = FeatureTerms(narrow.config, wide.config, ALL_TERMS, seed=3).state_dict()
    assert all(torch.equal(first[name], tensor) for name, tensor in again.state_dict().items())
    assert not torch.equal(first["projections.hidden.weight"], other.state_dict()["projections.hidden.weight"])


def test_layers_that_do_not_fit_the_models_are_named_with_their_term():
    model, _ = compact("bert")
    with pytest.raises(UserError, match=r"^terms.pkd.layers: names layer 9; the teacher has layers 1 to 2"):
        FeatureTerms(model.config, model.config, {"pkd": PKD(layers=[1, 9])})


def test_the_first_projections_do_not_depend_on_the_order_of_the_terms():
    narrow, wide = compact("bert", width=8)[0].config, compact("bert", width=16)[0].config
    orders = (ALL_TERMS, dict(reversed(ALL_TERMS.items())))
    one, other = (FeatureTerms(narrow, wide, terms) for terms in orders)
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name])


def test_terms_are_float32_under_autocast():
    model, tokenizer = compact("bert", width=8)
    wide, _ = compact("bert", width=16, seed=1)
    terms = FeatureTerms(model.config, wide.config, ALL_TERMS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        student, mask, _ = summaries(terms, model, tokenizer, "student")
        teacher, _, _ = summaries(terms, wide, tokenizer, "teacher")
        values = terms(student, teacher, mask)
    for tensor in (*student.values(), *teacher.values(), *values.values()):
        assert tensor.dtype == torch.float32
        assert torch.isfinite(tensor).all()


def test_a_pass_is_watched_once_and_no_longer():
    model, tokenizer = compact("deberta")
    modules = attention_modules(model)
    linears = [module.get_submodule(name) for module, names in modules for name in names]
    assert len(linears) == 6
    with recorded(model, frozenset({Reads.projections})) as features:
        model(**tokenizer(TEXTS, padding=True, return_tensors="pt"), **features.flags)
    assert [sorted(layer) for layer in features.projections] == [["key_proj", "query_proj", "value_proj"]] * 2
    assert not any(linear._forward_hooks for linear in linears)
