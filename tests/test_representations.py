"""Losses on representations against NumPy in float64, their gradients, and what each family gives them."""

import itertools

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from kdexp.errors import UserError
from kdexp.loss import terms as representations
from kdexp.loss.config import Pooling, TermConfig
from kdexp.loss.terms import RepresentationTerms, layer_pairs, pool, pool_attention, recording
from kdexp.model import families
from kdexp.training.checks import accepted_inputs

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


MAPS = [softmax(normal(3, 2, 4, 4, 4, seed=seed).numpy()) for seed in (0, 1)]
CASES = {
    "pkd": (representations.pkd, numpy_pkd, normal(5, 2, 6), normal(5, 2, 6, seed=1), ()),
    "rkd": (representations.rkd, numpy_rkd, normal(5, 2, 3), normal(5, 2, 6, seed=1), ()),
    "cka": (representations.cka, numpy_cka, normal(5, 2, 3), normal(5, 2, 6, seed=1), ()),
    "hidden": (representations.hidden, numpy_hidden, normal(3, 2, 4, 6), normal(3, 2, 4, 6, seed=1), (WORD_MASK,)),
    "attention": (representations.attention, numpy_attention, *(torch.tensor(m) for m in MAPS), (WORD_MASK,)),
    "minilm": (
        representations.minilm,
        numpy_minilm,
        normal(3, 2, 3, 4, 4),
        normal(3, 2, 3, 4, 8, seed=1),
        (WORD_MASK, 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_losses_agree_with_numpy(name):
    loss, oracle, student, teacher, others = CASES[name]
    plain = [other.numpy() if torch.is_tensor(other) else other for other in others]
    expected = oracle(student.numpy(), teacher.numpy(), *plain)
    assert expected > 0.01
    assert loss(student, teacher, *others).item() == pytest.approx(expected, rel=1e-9)
    assert loss(student, teacher, *others, num_examples=100).item() == pytest.approx(
        expected * len(student) / 100, rel=1e-9
    )


@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_the_student_and_never_the_teacher(name):
    loss, _, student, teacher, others = CASES[name]
    student, teacher = student.clone().requires_grad_(), teacher.clone().requires_grad_()
    assert gradcheck(lambda x: loss(x, teacher.detach(), *others), (student,))
    loss(student, teacher, *others).backward()
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("name", CASES)
def test_losses_vanish_where_student_and_teacher_are_the_same(name):
    loss, _, student, _, others = CASES[name]
    assert loss(student, student, *others).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["pkd", "hidden", "attention", "minilm"])
def test_micro_batches_add_up_to_the_large_batch(name):
    loss, _, student, teacher, others = CASES[name]
    parts = []
    for rows in (slice(0, 1), slice(1, None)):
        cut = [other[rows] if torch.is_tensor(other) else other for other in others]
        parts.append(loss(student[rows], teacher[rows], *cut, num_examples=len(student)))
    assert sum(parts).item() == pytest.approx(loss(student, teacher, *others).item(), rel=1e-9)


@pytest.mark.parametrize("name", ["hidden", "attention", "minilm"])
def test_padding_never_counts(name):
    loss, _, student, teacher, others = CASES[name]
    before = loss(student, teacher, *others)
    disturbed = student.clone()
    axis = {"hidden": 2, "attention": 3, "minilm": 3}[name]
    disturbed.select(axis, 3)[1] = 1e3
    if name == "attention":
        disturbed.select(4, 3)[1] = 1e3
    assert loss(disturbed, teacher, *others).item() == pytest.approx(before.item(), rel=1e-12)
    nothing = torch.zeros_like(WORD_MASK)
    assert loss(student, teacher, nothing, *others[1:]).item() == 0


def test_equal_examples_and_small_batches_have_finite_gradients():
    for loss in (representations.rkd, representations.cka):
        student = normal(4, 1, 3)[[0, 0, 1, 2]].requires_grad_()
        loss(student, normal(4, 1, 6)[[0, 0, 1, 2]]).backward()
        assert student.grad.abs().max() < 100
        two = normal(2, 1, 3).requires_grad_()
        value = loss(two, normal(2, 1, 6))
        value.backward()
        assert value == 0
        assert not two.grad.any()


def test_attention_of_models_with_other_heads_compares_their_means():
    student, teacher = torch.tensor(MAPS[0]), torch.tensor(MAPS[1])[:, :, :2]
    expected = numpy_attention(
        student.numpy().mean(2, keepdims=True), teacher.numpy().mean(2, keepdims=True), WORD_MASK.numpy()
    )
    assert representations.attention(student, teacher, WORD_MASK).item() == pytest.approx(expected)


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
    assert layer_pairs("hidden", "uniform", 4, 12) == [(1, 3), (2, 6), (3, 9), (4, 12)]
    assert layer_pairs("hidden", "uniform", 2, 3) == [(1, 2), (2, 3)]
    assert layer_pairs("hidden", "last", 4, 12) == [(4, 12)]
    assert layer_pairs("hidden", [3, 1], 2, 3) == [(1, 3), (2, 1)]
    with pytest.raises(UserError, match=r"loss.terms.pkd.layers: names 1 layers .* the student has 2"):
        layer_pairs("pkd", [3], 2, 3)
    with pytest.raises(UserError, match=r"names layer 4; the teacher has layers 1 to 3"):
        layer_pairs("pkd", [1, 4], 2, 3)


def compact(family, *, width=16, num_layers=2, num_heads=2, seed=0):
    tokenizer = families.train_tokenizer(family, TEXTS * 5, vocab_size=320, max_length=24)
    config = families.compact_config(
        family, tokenizer, num_layers=num_layers, hidden_size=width, num_heads=num_heads, max_length=24,
        label_names=["a", "b"],
    )  # fmt: skip
    torch.manual_seed(seed)
    model = families.build_compact_model(config).eval()
    model.set_attn_implementation("eager")
    return model, tokenizer


ALL_TERMS = {name: TermConfig() for name in representations.VECTOR_TERMS + representations.TOKEN_TERMS}


def summaries(terms, model, tokenizer, side):
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    words = torch.where(
        inputs["attention_mask"].bool(), torch.arange(inputs["input_ids"].shape[1])[None], torch.tensor(-1)
    )
    with recording(model, terms.kinds) as seen:
        outputs = model(**accepted_inputs(model, dict(inputs)), **seen.flags)
    read = terms.of_student if side == "student" else terms.of_teacher
    mask = words >= 0
    return read(outputs, seen, inputs["attention_mask"], words, words.shape[1]), mask, outputs


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_family_gives_what_the_terms_compare(family):
    model, tokenizer = compact(family)
    terms = RepresentationTerms(model.config, model.config, ALL_TERMS)
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
    terms = RepresentationTerms(narrow.config, wide.config, ALL_TERMS, seed=3)
    assert sorted(terms.projections) == ["embeddings", "hidden", "pkd"]
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
    again = RepresentationTerms(narrow.config, wide.config, ALL_TERMS, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    other = RepresentationTerms(narrow.config, wide.config, ALL_TERMS, seed=4)
    first = RepresentationTerms(narrow.config, wide.config, ALL_TERMS, seed=3).state_dict()
    assert all(torch.equal(first[name], tensor) for name, tensor in again.state_dict().items())
    assert not torch.equal(first["projections.hidden.weight"], other.state_dict()["projections.hidden.weight"])


def test_terms_are_float32_under_autocast():
    model, tokenizer = compact("bert", width=8)
    wide, _ = compact("bert", width=16, seed=1)
    terms = RepresentationTerms(model.config, wide.config, ALL_TERMS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        student, mask, _ = summaries(terms, model, tokenizer, "student")
        teacher, _, _ = summaries(terms, wide, tokenizer, "teacher")
        values = terms(student, teacher, mask)
    for tensor in (*student.values(), *teacher.values(), *values.values()):
        assert tensor.dtype == torch.float32
        assert torch.isfinite(tensor).all()


def test_a_pass_is_watched_once_and_no_longer():
    model, tokenizer = compact("deberta")
    modules = representations.attention_modules(model)
    linears = [module.get_submodule(name) for module, names in modules for name in names]
    assert len(linears) == 6
    with recording(model, frozenset({"minilm"})) as seen:
        model(**tokenizer(TEXTS, padding=True, return_tensors="pt"), **seen.flags)
    assert [sorted(layer) for layer in seen.projections] == [["key_proj", "query_proj", "value_proj"]] * 2
    assert not any(linear._forward_hooks for linear in linears)
