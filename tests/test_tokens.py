"""Sequences of tokens: encoder, decoder and likelihood against torch's GRUCell, enumeration and exact frequencies."""

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cvae_lib.conditions import CaptionCondition, LabelCondition, Tokens, Vocabulary
from cvae_lib.likelihoods import TokenLikelihood, TokenSequence
from cvae_lib.model import CVAE
from cvae_lib.networks import GRUDecoder, GRUEncoder, MLPDecoder, NoEncoder
from cvae_lib.objective import elbo_terms, log_importance_weights
from cvae_lib.training import fit, load_checkpoint

V, D, H, E, L = 9, 2, 5, 4, 7
END = 1
LENGTHS = (1, 2, 5, 7)
Y = torch.tensor([0, 1, 1, 0])


def model(
    latent_dim: int = D, classes: int = 2, vocabulary: int = V, length: int = L, hidden: int = H, **settings: object
) -> CVAE:
    """Return a small model in float64, in evaluation mode; with ``latent_dim=0`` a language model."""
    sizes = {"embedding": E, "condition_dim": classes}
    encoder = GRUEncoder(vocabulary, hidden, latent_dim, **sizes) if latent_dim else NoEncoder()
    decoder = GRUDecoder(latent_dim, hidden, vocabulary, **sizes, **settings)
    condition = LabelCondition(classes) if classes else None
    made = CVAE(encoder, decoder, condition=condition, likelihood=TokenLikelihood(vocabulary, length))
    return made.double().eval()


def sequences() -> Tensor:
    """Return four sequences of different length, one of them the end token alone, padded with 0."""
    x = torch.randint(2, V, (len(LENGTHS), L))
    for row, length in enumerate(LENGTHS):
        x[row, length - 1], x[row, length:] = END, 0
    return x


def cell_of(gru: nn.GRU) -> nn.GRUCell:
    """Return torch's cell for a single step, with the weights of a layer."""
    cell = nn.GRUCell(gru.input_size, gru.hidden_size).double()
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in gru.state_dict().items()})
    return cell


def by_hand(net: CVAE, x: Tensor, z: Tensor, y: Tensor | None) -> Tensor:
    """Return log p(x_t | x_<t, z, y) of one sequence, token by token, in a plain loop."""
    decoder, network = net.decoder, net.decoder.network
    c = torch.zeros(0).double() if y is None else nn.functional.one_hot(y, 2).double()
    context = torch.cat([z, c] if decoder.z_at == "every" else [c])
    h = torch.tanh(decoder.start(z)) if len(z) else torch.zeros(H).double()
    cell, before, nats = cell_of(network.gru.gru), 0, []
    for token in x.tolist():
        h = cell(torch.cat([network.gru.embed.weight[before], context])[None], h[None])[0]
        p = torch.exp(network.readout.weight @ h + network.readout.bias)  # of tokens 1, 2, ...
        nats.append(torch.log(p[token - 1] / p.sum()))
        before = token
        if token == END:
            break
    return torch.stack(nats)


# --- the likelihood ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("z_at", ["start", "every"])
@pytest.mark.parametrize("classes", [0, 2])
@pytest.mark.parametrize("latent_dim", [0, D])
def test_log_prob_is_a_plain_loop_over_the_tokens(z_at, classes, latent_dim):
    net, x, y = model(latent_dim, classes, z_at=z_at), sequences(), Y if classes else None
    z = torch.randn(3, len(x), latent_dim, dtype=torch.float64)  # K samples each, in one call
    p = net.likelihood(z, y)
    assert p.batch_shape == (3, 4) and p.event_shape == (L,)
    nats, tokens = p.log_prob(x), p.token_log_probs(x)
    for k, b in itertools.product(range(3), range(4)):
        expected = by_hand(net, x[b], z[k, b], None if y is None else y[b])
        torch.testing.assert_close(nats[k, b], expected.sum())
        torch.testing.assert_close(tokens[k, b, : LENGTHS[b]], expected)
        assert not tokens[k, b, LENGTHS[b] :].any()
    torch.testing.assert_close(net.likelihood(z[1], y).log_prob(x), nats[1])
    torch.testing.assert_close(p.log_prob(x.expand(3, -1, -1)), nats)


def test_the_probabilities_of_all_sequences_sum_to_one():
    net = model(vocabulary=4, length=5)
    p = net.likelihood(3 * torch.randn(1, D, dtype=torch.float64), torch.tensor([1]))
    total = 0.0
    for words in range(5):
        for text in itertools.product((2, 3), repeat=words):
            tokens = p.token_log_probs(torch.tensor([[*text, END]]))[0].double()
            total += tokens.sum().exp().item()
            if words == 4:  # and every longer sequence, by how it begins
                total += tokens[:-1].sum().exp().item() * -tokens[-1].expm1().item()
    assert total == pytest.approx(1, abs=1e-12)


def test_what_stands_behind_the_end_token_never_matters():
    net, x, z = model(), sequences(), torch.randn(4, D, dtype=torch.float64)
    noisy = torch.where(x == 0, torch.randint(-50, 50, x.shape), x)
    assert (noisy != x).any() and net.likelihood_module.fits(noisy).all()
    assert torch.equal(net.likelihood(z, Y).log_prob(noisy), net.likelihood(z, Y).log_prob(x))
    longer = nn.functional.pad(x, (0, 3), value=8)
    torch.testing.assert_close(net.likelihood(z, Y).log_prob(longer), net.likelihood(z, Y).log_prob(x))
    for ours, theirs in zip(net.encoder(noisy, net.condition(Y)), net.encoder(x, net.condition(Y)), strict=True):
        assert torch.equal(ours, theirs)


def test_sequences_do_not_see_each_other_nor_their_order():
    net, x, z = model(z_at="every"), sequences(), torch.randn(4, D, dtype=torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    together = net.likelihood(z, Y).log_prob(x)
    torch.testing.assert_close(net.likelihood(z[order], Y[order]).log_prob(x[order]), together[order])
    mean = net.posterior(x, Y).mean
    torch.testing.assert_close(net.posterior(x[order], Y[order]).mean, mean[order])
    for b in range(4):
        torch.testing.assert_close(net.posterior(x[b : b + 1], Y[b : b + 1]).mean[0], mean[b])


# --- the encoder ------------------------------------------------------------------------------------------------------


def test_the_encoder_reads_up_to_the_end_token_with_y_at_every_step():
    net, x = model(), sequences()
    q, cell = net.posterior(x, Y), cell_of(net.encoder.gru.gru)
    for b in range(4):
        h = torch.zeros(1, H).double()
        for token in x[b, : LENGTHS[b]]:
            c = nn.functional.one_hot(Y[b], 2).double()
            h = cell(torch.cat([net.encoder.gru.embed.weight[token], c])[None], h)
        mean, raw = net.encoder.head(h)[0].chunk(2)
        torch.testing.assert_close(q.mean[b], mean)
        torch.testing.assert_close(q.stddev[b], torch.exp(5 * torch.tanh(raw / 10)))


def test_a_condition_of_several_vectors_enters_by_its_mean():
    encoder, x = GRUEncoder(V, H, D, embedding=E, condition_dim=3), sequences()
    values, mask = torch.randn(4, 2, 3), torch.tensor([[True, True], [True, False], [False, True], [True, True]])
    mean = torch.stack([row[kept].mean(0) for row, kept in zip(values, mask, strict=True)])
    torch.testing.assert_close(encoder(x, Tokens(values, mask))[0], encoder(x, mean)[0])
    words = CaptionCondition(Vocabulary(("red", "big"), 2), 3)
    decoder = GRUDecoder(D, H, V, condition_dim=3)
    net = CVAE(encoder, decoder, condition=words, likelihood=TokenLikelihood(V, L))
    assert net.draw(["red", "big red"], sample=True).shape == (2, L)


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("z_at", ["start", "every"])
def test_gradients_are_those_of_finite_differences(z_at):
    net, x = model(z_at=z_at), sequences()
    z = torch.randn(2, 4, D, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: net.likelihood(z, Y).log_prob(x), z)
    elbo_terms(net, x, Y).loss().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


# --- drawing ----------------------------------------------------------------------------------------------------------


def tempered(p: TokenSequence, prefix: list[int], tokens: tuple[int, ...], temperature: float) -> Tensor:
    """Return the probabilities of the next token behind a prefix, by the likelihood of every continuation."""
    rows = torch.tensor([[*prefix, token, END] for token in tokens])
    nats = torch.stack([p.token_log_probs(row[None])[0, len(prefix)] for row in rows])
    return (nats / temperature).softmax(0)


def chi_square(p: TokenSequence, draws: Tensor, temperature: float) -> float:
    """Return Pearson's statistic of how often each sequence of at most three tokens was drawn."""
    statistic = 0.0

    def visit(prefix: list[int], share: float) -> None:
        nonlocal statistic
        if len(prefix) == 3 or prefix[-1:] == [END]:
            row = torch.tensor(prefix + [0] * (3 - len(prefix)))
            seen, expected = int((draws == row).all(1).sum()), share * len(draws)
            statistic += (seen - expected) ** 2 / expected
            return
        for token, q in zip((1, 2, 3), tempered(p, prefix, (1, 2, 3), temperature).tolist(), strict=True):
            visit([*prefix, token], share * q)

    visit([], 1.0)
    return statistic


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_have_the_exact_frequencies(temperature):
    net = model(vocabulary=4, length=3)
    p = net.likelihood(3 * torch.randn(1, D, dtype=torch.float64), torch.tensor([0]))
    draws = p.sample((20_000,), temperature=temperature)[:, 0]
    bound = 42.6  # chi-square with 14 degrees of freedom exceeds it once in 10,000
    assert chi_square(p, draws, temperature) < bound < chi_square(p, draws, 1.3 * temperature)


def test_greedy_takes_the_likeliest_token_at_every_step():
    net = model()
    z, y = 4 * torch.randn(3, D, dtype=torch.float64), torch.tensor([0, 1, 0])
    for b, found in enumerate(net.likelihood(z, y).sample(greedy=True).tolist()):
        one, expected = net.likelihood(z[b : b + 1], y[b : b + 1]), []
        while len(expected) < L and END not in expected:
            expected.append(1 + int(tempered(one, expected, tuple(range(1, V)), 1.0).argmax()))
        assert found == expected + [0] * (L - len(expected))


def test_a_draw_ends_with_its_end_token_or_is_cut_off():
    net = model()
    with torch.no_grad():
        net.decoder.network.readout.bias[END - 1] += 1
    p = net.likelihood(torch.randn(5, 40, D, dtype=torch.float64), torch.randint(0, 2, (40,)))
    draws = p.sample()
    assert draws.shape == (5, 40, L) and draws.dtype == torch.int64
    ended = (draws == END).any(-1)
    assert ended.any() and not ended.all()
    assert torch.equal(ended.flatten(), net.likelihood_module.fits(draws.flatten(0, 1)))
    behind = (draws == END).cumsum(-1) - (draws == END).long() > 0
    assert not draws[behind].any() and (draws[~behind] > 0).all() and (draws < V).all()
    assert p.sample(max_length=3).shape == (5, 40, 3)
    assert p.sample((2,)).shape == (2, 5, 40, L)
    assert p.log_prob(draws[ended][0].expand(40, -1)).isfinite().all()


def test_draws_follow_their_generator_and_leave_the_global_stream_alone():
    net, y = model(), torch.tensor([0, 1] * 20)
    p = net.likelihood(torch.randn(40, D, dtype=torch.float64), y)
    before = torch.get_rng_state()
    for draw in (lambda g: p.sample(generator=g), lambda g: net.draw(y, sample=True, generator=g)):
        first, again, other = (draw(torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
        assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


# --- dropout ----------------------------------------------------------------------------------------------------------


def test_word_dropout_hides_tokens_in_training_alone():
    net, x, z = model(word_dropout=1.0), sequences(), torch.randn(4, D, dtype=torch.float64)
    known = net.likelihood(z, Y).log_prob(x)
    plain = model(word_dropout=0.0)
    plain.load_state_dict(net.state_dict())
    assert torch.equal(known, plain.likelihood(z, Y).log_prob(x))
    hidden = net.train().likelihood(z, Y).log_prob(x)
    with torch.no_grad():
        plain.decoder.network.gru.embed.weight[1:] = (
            0  # a token that is not known is a zero vector, and the start stays
        )
    torch.testing.assert_close(hidden, plain.likelihood(z, Y).log_prob(x))
    assert not torch.allclose(hidden[1:], known[1:]) and torch.allclose(hidden[0], known[0])


@pytest.mark.parametrize("settings", [{"word_dropout": 0.5}, {"dropout": 0.5}], ids=["words", "states"])
def test_dropout_is_noise_in_training_alone(settings):
    net, x, z = model(**settings), sequences(), torch.randn(4, D, dtype=torch.float64)
    first, again = (net.train().likelihood(z, Y).log_prob(x) for _ in range(2))
    assert not torch.equal(first, again)
    first, again = (net.eval().likelihood(z, Y).log_prob(x) for _ in range(2))
    assert torch.equal(first, again)


def test_word_dropout_hides_as_many_tokens_as_it_says():
    net = model(classes=0, word_dropout=0.3, length=402).train()
    with torch.no_grad():  # the state is the last token's vector, and shows whether it was hidden
        for parameter in net.decoder.network.parameters():
            parameter.zero_()
        net.decoder.network.gru.embed.weight[2] = 1
        net.decoder.network.gru.gru.weight_ih_l0[2 * H :] = 5
        net.decoder.network.gru.gru.bias_ih_l0[H : 2 * H] = -50  # forget what was before
        net.decoder.network.readout.weight[1] = 1
    x = torch.full((50, 402), 2)
    x[:, -1] = END
    nats = net.likelihood(torch.zeros(50, D, dtype=torch.float64)).token_log_probs(x)[:, 1:-1]
    assert (nats < -1.5).double().mean().item() == pytest.approx(0.3, abs=0.02)


# --- a model without z ------------------------------------------------------------------------------------------------


def test_the_elbo_of_a_language_model_is_its_log_likelihood(full_profile):
    net, x = model(latent_dim=0), sequences()
    terms = elbo_terms(net, x, Y)
    expected = torch.stack([by_hand(net, x[b], torch.zeros(0), Y[b]).sum() for b in range(4)])
    assert terms.kl.shape == (4, 0)
    torch.testing.assert_close(terms.elbo, expected)
    torch.testing.assert_close(log_importance_weights(net, x, Y, 3), expected.expand(3, 4))
    history = fit(net, (x, Y), steps=20, device="cpu")
    assert set(history.rate) == {0.0} and history.loss[-1] < history.loss[0]
    assert net.draw([0, 1], sample=True).shape == (2, L)


# --- around the model -------------------------------------------------------------------------------------------------


def test_copies_and_checkpoints_have_a_network_of_their_own(tmp_path, full_profile):
    net, x, z = model().float(), sequences(), torch.randn(4, D)
    net.train()
    fit(net, (x.to(torch.uint8), Y), epochs=2, ema=0.9, validation=(x[:, :L], Y), checkpoint=tmp_path, device="cpu")
    nats = net.likelihood(z, Y).log_prob(x)
    loaded, _ = load_checkpoint(tmp_path, model=model().float())
    assert torch.equal(loaded.likelihood(z, Y).log_prob(x), nats)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.1)
    assert torch.equal(net.likelihood(z, Y).log_prob(x), nats)
    assert not torch.allclose(twin.likelihood(z, Y).log_prob(x), nats)


def test_several_processes_get_the_gradient_of_one(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        net, x = model(), sequences()
        wrapped, alone = DistributedDataParallel(net), copy.deepcopy(net)
        for _ in range(2):  # a second step finds every parameter that the first one left out
            for whole in (wrapped, alone):
                torch.manual_seed(1)
                elbo_terms(whole, x, Y).loss().backward()
        for parallel, plain in zip(net.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(parallel.grad, plain.grad)
    finally:
        torch.distributed.destroy_process_group()


def test_half_precision_products_leave_the_likelihood_in_float32():
    net, x = model().float(), sequences()
    exact = elbo_terms(net, x, Y).log_likelihood
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = elbo_terms(net, x, Y).log_likelihood
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.5)  # z is drawn anew


# --- wrong input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "x, sentence",
    [
        (torch.tensor([[2.0, 1.0]]), "int64 tokens of shape .* not torch.float32"),
        (torch.tensor([[2, 1]], dtype=torch.int32), "not torch.int32"),
        (torch.tensor([[2, V, 1]]), r"lie in 1\.\.8 as far as the end token 1, and one is 9"),
        (torch.tensor([[2, -1, 1]]), "one is -1"),
        (torch.tensor([[2, 0, 1]]), "one is 0"),
        (torch.tensor([[2, 3, 0]]), "no end token 1"),
        (torch.tensor([[2, 1], [0, 0]]), "even one without words needs it"),
        (torch.zeros(1, 0, dtype=torch.int64), r"not torch.int64 of \(1, 0\)"),
        (torch.tensor([[2, 1]] * 3), r"shape \(3, 2\) do not go with a batch of \(2,\)"),
    ],
)
def test_wrong_sequences_are_named(x, sentence, as_users_call):
    p = model().likelihood(torch.zeros(2, D, dtype=torch.float64), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=sentence):
        p.log_prob(x)


@pytest.mark.parametrize(
    "x, sentence",
    [
        (torch.tensor([[2.0, 1.0]]), "int64 tokens"),
        (torch.tensor([2, 1]), r"not torch.int64 of \(2,\)"),
        (torch.tensor([[2, V, 1]]), r"1\.\.8 as far as the end token 1, and one is 9"),
        (torch.tensor([[0, 0]]), "one is 0"),
    ],
)
def test_the_encoder_names_what_it_cannot_read(x, sentence, as_users_call):
    with pytest.raises(ValueError, match=sentence):
        model(classes=0).posterior(x)


def test_training_names_the_sequence_at_fault(full_profile):
    x = sequences()
    x[2, LENGTHS[2] - 1] = 3
    with pytest.raises(ValueError, match=r"not a sequence of tokens 1\.\.8 that ends with 1, first in example 2"):
        fit(model().float(), (x, Y), steps=1, device="cpu")


@pytest.mark.parametrize("x", [torch.rand(2, 3), torch.ones(2, 3).bool(), torch.ones(2, L + 1).long()])
def test_stored_tokens_are_rows_of_whole_numbers(x):
    likelihood = TokenLikelihood(V, L)
    with pytest.raises(ValueError, match=r"rows of at most 7 whole numbers, not torch\.(float32|bool|int64) of shape"):
        likelihood.prepare(x)
    prepared = likelihood.prepare(torch.tensor([[4, 1]], dtype=torch.uint8))
    assert prepared.dtype == torch.int64 and prepared.tolist() == [[4, 1, 0, 0, 0, 0, 0]]


def test_wrong_settings_are_named(as_users_call):
    for wrong in ({"z_at": "end"}, {"word_dropout": 1.5}):
        with pytest.raises(ValueError, match="z_at is 'start' or 'every'"):
            GRUDecoder(D, H, V, **wrong)
    for end, length in ((0, 3), (V, 3), (1, 0)):
        with pytest.raises(ValueError, match=r"end token lies in 1\.\.8 and the length is at least 1"):
            TokenLikelihood(V, length, end)
    with pytest.raises(ValueError, match=r"a condition of shape \(2, 3\), not \(2, 0\)"):
        GRUDecoder(D, H, V, condition_dim=3)(torch.zeros(2, D), None)
    with pytest.raises(ValueError, match="latents of 2 entries"):
        GRUDecoder(D, H, V)(torch.zeros(2, 3), None)
    with pytest.raises(ValueError, match="returns a Recurrence, not Tensor"):
        TokenLikelihood(V, L)(MLPDecoder(D, (3,), (V,))(torch.zeros(2, D), None))
    p = TokenLikelihood(V + 1, L)(GRUDecoder(D, H, V)(torch.zeros(2, D), None))
    with pytest.raises(ValueError, match="The decoder has a vocabulary of 9, the likelihood one of 10"):
        p.sample()
    for wrong in ({"temperature": 0.0}, {"max_length": 0}):
        with pytest.raises(ValueError, match="temperature above 0"):
            model().likelihood(torch.zeros(2, D).double(), torch.tensor([0])).sample(**wrong)
    with pytest.raises(ValueError, match="sample=True"):
        model().draw([0, 1])


# --- training ---------------------------------------------------------------------------------------------------------


def toy(count: int) -> tuple[Tensor, Tensor]:
    """Return texts of one to three words; kind 0 has words 2 to 5, kind 1 words 6 to 9, all equally likely."""
    y, lengths = torch.randint(0, 2, (count,)), torch.randint(1, 4, (count,))
    x = torch.randint(2, 6, (count, 4)) + 4 * y[:, None]
    x[torch.arange(4) == lengths[:, None]] = END
    return x, y


@pytest.mark.parametrize("latent_dim", [0, 2], ids=["language model", "cvae"])
def test_training_learns_the_kinds_and_reaches_the_entropy(latent_dim, full_profile):
    net = model(latent_dim, vocabulary=10, length=4, hidden=16).float()
    fit(net, toy(4000), steps=300, batch_size=64, learning_rate=2e-2, device="cpu", precision="float32")
    x, y = toy(4000)
    entropy = math.log(3) + 2 * math.log(4)  # of the length, and of two words on average
    with torch.no_grad():
        elbo = elbo_terms(net, x, y).elbo
    assert -elbo.mean().item() == pytest.approx(entropy, abs=0.1)  # the data's own error is 0.02
    asked = torch.tensor([0, 1] * 300)
    draws = net.draw(asked, sample=True)
    words = draws > END
    right = (((draws >= 6) == (asked == 1)[:, None]) | ~words).all(1)
    assert right.double().mean() > 0.97 and words.any(1).double().mean() > 0.95
    assert len(draws.unique(dim=0)) > 80  # of 168
