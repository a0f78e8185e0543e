"""The one loop from embeddings to captions: greedy, beam, sampling."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from decoders.base import Decoded, DecodeOptions, StepNetwork
from decoders.guidance import Guide, GuidedNetwork, SharedRows, distinct_rows
from decoders.tokenizers import Vocabulary
from patchioner.base.errors import DecoderError

# (logits (m, vocab), banned ones at minus infinity, which rows they are (m,), step) -> chosen tokens (m,)
Choose: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]

Hypothesis: TypeAlias = tuple[tuple[int, ...], tuple[float, ...]]
"""Generated tokens, the end token included, and the log-probability of each."""

Search: TypeAlias = Callable[[StepNetwork, Tensor, "Constraints"], list[Hypothesis]]

_BEAM_COPIES = 3  # scores, log-probabilities and the cache while beams are reordered
_TOP = 64  # tokens that nearly always hold the draw
_IN_CACHE = 2**18  # logits, which the sum of their exponentials reads several times
_LARGE = 512  # tokens from which finding those beats sorting all


@torch.inference_mode()
def generate(
    network: StepNetwork,
    vocabulary: Vocabulary,
    embeddings: Tensor,
    options: DecodeOptions,
    device: torch.device,
    guide: Guide | None = None,
    *,
    draws: int = 1,
) -> list[Decoded]:
    """As `Decoder.generate`, of checked embeddings, by a network in evaluation mode on `device`.

    With more `draws` there are so many samples of each row, one after another, of seeds that follow `options.seed`.
    A row's caption does not depend on the others, up to the rounding of the platform's matrix product.
    """
    if options.max_tokens > (most := network.max_tokens):
        raise DecoderError(f"max_tokens is {options.max_tokens}, but there are positions for {most}; lower max_tokens")
    if not len(embeddings):
        return []
    parts = [embeddings]
    if guide is not None:
        network = GuidedNetwork(SharedRows(network), vocabulary, guide)
        parts += [guide.around, guide.evidence]
    rows = torch.cat([part.detach().to(device, torch.float32) for part in parts], dim=1)
    distinct, places = distinct_rows(rows)
    constraints = Constraints(vocabulary, options, device)
    sampling = partial(sample_search, draws=draws)
    searches: dict[str, Search] = {"greedy": greedy_search, "beam": beam_search, "sample": sampling}
    search = searches[options.strategy]
    found: list[Hypothesis] = []
    copies = _BEAM_COPIES * options.beam_width if options.strategy == "beam" else 1
    row = network.row_bytes(options.max_tokens) * copies
    size = int(min(len(distinct), max(1, options.batch_memory_mb * 2**20 / row // draws)))
    for part in distinct.split(size):
        found += search(network, part.repeat_interleave(draws, dim=0), constraints)
    captions = [Decoded(vocabulary.decode(ids), ids, log_probs) for ids, log_probs in found]
    return [one for place in places for one in captions[place * draws : (place + 1) * draws]]


def greedy_search(network: StepNetwork, embeddings: Tensor, constraints: Constraints) -> list[Hypothesis]:
    """The likeliest token at every step, of equals the first, for each row of (n, dim) embeddings."""
    return _search(network, embeddings, constraints, lambda logits, *_: logits.argmax(dim=1))


def sample_search(network: StepNetwork, embeddings: Tensor, constraints: Constraints, draws: int) -> list[Hypothesis]:
    """A token drawn at every step, by inverting the cumulative distribution with uniform numbers of the row's own.

    Of `draws` equal rows, which follow one another, each has the next seed.
    """
    options = constraints.options
    each = [row_uniforms(embeddings[::draws], options.max_tokens, seed=options.seed + place) for place in range(draws)]
    uniforms = torch.from_numpy(np.stack(each, axis=1)).flatten(0, 1).to(embeddings.device)

    def choose(logits: Tensor, rows: Tensor, step: int) -> Tensor:
        return draw(logits / options.temperature, uniforms[rows, step], options.top_p)

    return _search(network, embeddings, constraints, choose)


def draw(logits: Tensor, uniforms: Tensor, top_p: float) -> Tensor:
    """Tokens (n,) of (n, vocab) logits, drawn from the nucleus of mass `top_p` (Holtzman et al. 2020).

    `uniforms` (n,) float64 in [0, 1) are the quantiles to take within the nucleus.
    """
    if logits.shape[1] < _LARGE:
        return _draw_among(logits, uniforms, top_p, logits.shape[1])[0]
    # Nearly every draw is among the likeliest few.
    chosen, sure = _draw_among(logits, uniforms, top_p, _TOP)
    rest = (~sure).nonzero().squeeze(1)
    if len(rest):
        chosen[rest] = _draw_among(logits[rest], uniforms[rest], top_p, logits.shape[1])[0]
    return chosen


def _draw_among(logits: Tensor, uniforms: Tensor, top_p: float, count: int) -> tuple[Tensor, Tensor]:
    """`draw` by looking at the `count` likeliest; and whether it is sure that no other would have been drawn."""
    # The order of equal ones is that of the vocabulary.
    order = logits.topk(count, dim=1).indices.sort(dim=1).values
    ordered, among = logits.gather(1, order).sort(dim=1, descending=True, stable=True)
    order, highest = order.gather(1, among), ordered[:, :1]
    total = (logits - highest).exp().sum(dim=1, keepdim=True).double()
    probabilities = (ordered - highest).double().exp() / total
    mass = probabilities.cumsum(dim=1)
    # A token is inside when the mass before it is still short of top_p; the first always is.
    inside = ((mass - probabilities < top_p) & (probabilities > 0)).sum(dim=1, keepdim=True)
    last = inside.clamp(min=1) - 1
    whole = mass.gather(1, last) if top_p < 1 else torch.ones_like(mass[:, :1])
    place = torch.searchsorted(mass, uniforms.unsqueeze(1) * whole, right=True).minimum(last)
    sure = (ordered.gather(1, place) > ordered[:, -1:]) & ((mass[:, -1:] >= top_p) | (top_p == 1))
    return order.gather(1, place).squeeze(1), sure.squeeze(1)


def row_uniforms(embeddings: Tensor, count: int, *, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """(n, count) uniform numbers in [0, 1), each row a function of `seed` and of its embedding.

    Of an embedding only the signs count: the last bits of a matrix product vary with the number of its rows, and a draw
    must not depend on the batch.
    """
    rows = np.packbits((embeddings > 0).cpu().numpy(), axis=1)
    uniforms = np.empty((len(rows), count))
    for place, row in enumerate(rows):
        digest = hashlib.blake2b(row.tobytes(), digest_size=16, salt=seed.to_bytes(16, "little"))
        stream = np.random.default_rng(int.from_bytes(digest.digest(), "little"))
        uniforms[place] = stream.random(count)
    return uniforms


def _scored(network: StepNetwork, states: Tensor, bans: StepBans) -> tuple[Tensor, Tensor]:
    """Logits (n, vocab) of (n, width) states, banned tokens at minus infinity.

    And what makes log-probabilities of them, (n, 1), from before the bans: the network's own. Nothing (0) off scores.
    """
    logits = network.logits(states)
    if network.gives_scores:
        total = logits.new_zeros(len(logits), 1)
    else:
        few = max(1, _IN_CACHE // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
        total = torch.cat([part.logsumexp(dim=1, keepdim=True) for part in logits.split(few)])
    bans.apply(logits)
    return logits, total


def _search(network: StepNetwork, embeddings: Tensor, constraints: Constraints, choose: Choose) -> list[Hypothesis]:
    options = constraints.options
    count, device = len(embeddings), embeddings.device
    tokens = torch.full((count, options.max_tokens), -1, dtype=torch.int64, device=device)
    log_probs = torch.zeros((count, options.max_tokens), dtype=torch.float32, device=device)
    active = torch.arange(count, device=device)
    states, cache = network.start(embeddings, options.max_tokens)
    for step in range(options.max_tokens):
        logits, total = _scored(network, states, constraints.at(tokens[active, :step]))
        chosen = choose(logits, active, step)
        tokens[active, step] = chosen
        log_probs[active, step] = (logits.gather(1, chosen[:, None]) - total).squeeze(1)
        kept = close_ranks(torch.isin(chosen, constraints.ends, invert=True))
        if step + 1 == options.max_tokens or not len(kept):
            break
        if len(kept) < len(active):
            active, chosen = active[kept], chosen[kept]
            cache.select(kept)
        states = network.step(chosen, cache)
    return hypotheses(tokens, log_probs)


def close_ranks(going: Tensor) -> Tensor:
    """The places (m,) int64 of rows that go on: each stays where it is, or fills the place of one that ended.

    So a row that ends costs its cache the copy of one row: of five rows 0, 2, 4 give [0, 4, 2].
    """
    places = going.nonzero().squeeze(1)
    count = len(places)
    kept = torch.arange(count, device=going.device)
    kept[(~going[:count]).nonzero().squeeze(1)] = places[places >= count]
    return kept


def hypotheses(tokens: Tensor, log_probs: Tensor) -> list[Hypothesis]:
    """Rows of tokens (n, t), padded with -1, and of their log-probabilities, without the padding."""
    lengths = (tokens >= 0).sum(dim=1).tolist()
    rows = zip(tokens.tolist(), log_probs.tolist(), lengths, strict=True)
    return [(tuple(ids[:length]), tuple(values[:length])) for ids, values, length in rows]


def top_tokens(network: StepNetwork, states: Tensor, bans: StepBans, count: int) -> tuple[Tensor, Tensor]:
    """The `count` likeliest tokens of each row, best first: log-probabilities and tokens, each (n, count).

    The log-probabilities are the network's own, with banned tokens at minus infinity.
    """
    logits, total = _scored(network, states, bans)
    values, tokens = logits.topk(min(count, logits.shape[1]), dim=1)
    return values - total, tokens


def beam_search(network: StepNetwork, embeddings: Tensor, constraints: Constraints) -> list[Hypothesis]:
    """The best finished hypothesis of each row of (n, dim) embeddings.

    A row stops once `beam_width` hypotheses have ended, or no living one can still win. A row where none has ended by
    `max_tokens` gives its best living one, cut. Width 1 equals greedy.
    """
    beams, options = _Beams(embeddings, constraints), constraints.options
    width = options.beam_width
    # Each hypothesis can end in `len(ends)` ways: with one more than that of each, enough remain to go on.
    most = (1 + len(constraints.ends)) * width
    states, cache = network.start(embeddings, options.max_tokens)
    log_probs, tokens = top_tokens(network, states, constraints.at(beams.written(0)[::width]), most)
    # All hypotheses start alike: one is read, and its continuations shown to each.
    first = torch.arange(len(embeddings), device=embeddings.device).repeat_interleave(width)
    cache.select(first)
    log_probs, tokens = log_probs[first], tokens[first]
    for step in range(options.max_tokens):
        source = beams.extend(log_probs, tokens, step)
        if step + 1 == options.max_tokens or not len(source):
            break
        cache.select(source)
        states = network.step(beams.written(step + 1)[:, -1], cache)
        log_probs, tokens = top_tokens(network, states, constraints.at(beams.written(step + 1)), most)
    return beams.best()


class _Beams:
    """Living hypotheses (m rows still going, width, max_tokens) and the best finished one of every row."""

    def __init__(self, embeddings: Tensor, constraints: Constraints) -> None:
        self.options, self.ends = constraints.options, constraints.ends
        count, width, device = len(embeddings), self.options.beam_width, embeddings.device
        shape = (count, width, self.options.max_tokens)
        self.rows = torch.arange(count, device=device)  # which input each living row is
        self.tokens = torch.full(shape, -1, dtype=torch.int64, device=device)
        self.log_probs = torch.zeros(shape, dtype=torch.float32, device=device)
        self.sums = torch.full((count, width), -torch.inf, dtype=torch.float32, device=device)
        self.sums[:, 0] = 0.0  # all start alike, so only one may be extended at first
        self.ended = torch.zeros(count, dtype=torch.int64, device=device)  # how many, of each input
        self.scores = torch.full((count,), -torch.inf, dtype=torch.float64, device=device)
        self.won_tokens, self.won_log_probs = self.tokens[:, 0].clone(), self.log_probs[:, 0].clone()

    def written(self, step: int) -> Tensor:
        """(m * width, step): the tokens of every living hypothesis."""
        return self.tokens[:, :, :step].flatten(0, 1)

    def extend(self, log_probs: Tensor, tokens: Tensor, step: int) -> Tensor:
        """Add one token to every hypothesis, of its (m * width, k) likeliest, best first, banned ones at -inf.

        Gives back, for each living hypothesis, the index of the one it extends; empty when all are done.
        """
        rows, width = self.sums.shape
        each = log_probs.shape[1]
        totals = (self.sums.flatten()[:, None] + log_probs).view(rows, width * each)
        most = min((1 + len(self.ends)) * width, width * each)
        sums, places = totals.topk(most, dim=1)
        parents, row = places // each, torch.arange(rows, device=places.device)[:, None]
        written, values = self.tokens[row, parents], self.log_probs[row, parents]
        written[:, :, step] = tokens.view(rows, width * each).gather(1, places)
        values[:, :, step] = log_probs.view(rows, width * each).gather(1, places)
        ended = torch.isin(written[:, :, step], self.ends) & (sums > -torch.inf)
        self._finish(written, values, sums, ended[:, :width], step)
        # Living candidates first, each kind in order of score.
        order = ended.long().argsort(dim=1, stable=True)[:, :width]
        self.tokens, self.log_probs = written[row, order], values[row, order]
        self.sums = sums.gather(1, order).masked_fill(ended.gather(1, order), -torch.inf)
        return self._drop_done(parents.gather(1, order))

    def best(self) -> list[Hypothesis]:
        """The winner of every row."""
        cut = (self.ended[self.rows] == 0).nonzero().squeeze(1)
        if len(cut):
            beams = self.sums[cut].argmax(dim=1)
            self.won_tokens[self.rows[cut]] = self.tokens[cut, beams]
            self.won_log_probs[self.rows[cut]] = self.log_probs[cut, beams]
        return hypotheses(self.won_tokens, self.won_log_probs)

    def _finish(self, tokens: Tensor, log_probs: Tensor, sums: Tensor, ended: Tensor, step: int) -> None:
        """File the best candidate that ended among the best `width`; a lower one is no winner."""
        self.ended[self.rows] += ended.sum(dim=1)
        rank = ended.long().argmax(dim=1)  # the first: they are in order of score
        scores = sums.gather(1, rank[:, None]).squeeze(1).double() / self._length(step + 1)
        better = (ended.any(dim=1) & (scores > self.scores[self.rows])).nonzero().squeeze(1)
        row, rank = self.rows[better], rank[better]
        self.scores[row] = scores[better]
        self.won_tokens[row] = tokens[better, rank]
        self.won_log_probs[row] = log_probs[better, rank]

    def _drop_done(self, parents: Tensor) -> Tensor:
        """Let rows leave that are done; the rest stays in place where it can (see `close_ranks`)."""
        # Sums only fall, and a longer caption divides by more: the best that may still come.
        reach = self.sums.amax(dim=1).double() / self._length(self.options.max_tokens)
        found, width = self.ended[self.rows], self.options.beam_width
        done = (found >= width) | ((found > 0) & (self.scores[self.rows] >= reach))
        kept = close_ranks(~done)
        if len(kept) < len(self.rows):
            self.rows, self.tokens = self.rows[kept], self.tokens[kept]
            self.log_probs, self.sums = self.log_probs[kept], self.sums[kept]
        return (kept[:, None] * width + parents[kept]).flatten()

    def _length(self, tokens: int) -> float:
        return float(tokens**self.options.length_penalty)


class StepBans(NamedTuple):
    """What may not come next at one step."""

    never: Tensor  # token ids that no row may write
    repeats: tuple[Tensor, Tensor] | None  # tokens (n, k) of rows, and whether (n, k) each would repeat an n-gram
    words: Sequence[tuple[int, int]]  # (row, token) of banned words

    def apply(self, logits: Tensor) -> None:
        """Set banned tokens of (n, vocab) logits to minus infinity, in place."""
        logits.index_fill_(1, self.never, -torch.inf)
        if self.repeats is not None:
            tokens, banned = self.repeats
            ceilings = torch.full_like(tokens, torch.inf, dtype=logits.dtype).masked_fill_(banned, -torch.inf)
            logits.scatter_reduce_(1, tokens, ceilings, "amin")
        if self.words:
            rows, columns = map(list, zip(*self.words, strict=True))
            logits[rows, columns] = -torch.inf


class Constraints:
    """The options and bans of one call of the loop, and the tokens that end a caption, where the logits are."""

    def __init__(self, vocabulary: Vocabulary, options: DecodeOptions, device: torch.device) -> None:
        self.options = options
        self.ends = torch.tensor(vocabulary.end_ids, device=device)
        unwritable = set(vocabulary.unwritable_ids)
        never = sorted(unwritable), sorted(unwritable | set(vocabulary.end_ids))
        self._never, self._never_or_end = (torch.tensor(ids, dtype=torch.int64, device=device) for ids in never)
        self._texts = [text.lower() for text in vocabulary.token_texts()] if options.banned_words else []
        words = sorted({" ".join(word.lower().split()) for word in options.banned_words})
        self._banned = [_BannedWord(word, self._texts) for word in words]

    def at(self, written: Tensor) -> StepBans:
        """The bans of one step, after the tokens `written` (n, t) int64."""
        early = written.shape[1] < self.options.min_tokens
        size = self.options.no_repeat_ngram
        repeats = _repeats(written, size) if 0 < size <= written.shape[1] else None
        return StepBans(self._never_or_end if early else self._never, repeats, self._words(written))

    def _words(self, written: Tensor) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for row, tokens in enumerate(written.tolist() if self._banned else ()):
            tail = "".join(self._texts[token] for token in tokens if token < len(self._texts))
            found += [(row, token) for word in self._banned for token in word.completed_by(tail)]
        return found


def _repeats(written: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The last token of every n-gram written, and whether it would now write that n-gram again."""
    ngrams = written.unfold(1, size, 1)
    begun = written[:, None, written.shape[1] - size + 1 :]
    return ngrams[:, :, -1], (ngrams[:, :, :-1] == begun).all(dim=2)


class _BannedWord:
    """Which tokens would complete one banned word or phrase, however it is cut into tokens."""

    def __init__(self, word: str, texts: Sequence[str]) -> None:
        self._word = word
        # By number of characters already written: tokens that write the rest, which none is longer than.
        first = max(0, len(word) - max(map(len, texts), default=0))
        self._rest: dict[int, list[int]] = {
            done: [i for i, text in enumerate(texts) if _begins(text, word[done:])] for done in range(first, len(word))
        }
        self._whole = [i for i, text in enumerate(texts) if _contains(text, word)]

    def completed_by(self, tail: str) -> list[int]:
        forbidden = list(self._whole)
        for done, tokens in self._rest.items():
            if tokens and _ends(tail, self._word[:done]):
                forbidden += tokens
        return forbidden


def _begins(text: str, rest: str) -> bool:
    """Whether `text` opens with `rest`, and the word ends there."""
    return text.startswith(rest) and not text[len(rest) : len(rest) + 1].isalnum()


def _ends(tail: str, beginning: str) -> bool:
    """Whether `tail` closes with `beginning`, and the word starts there."""
    start = len(tail) - len(beginning)
    return tail.endswith(beginning) and (start == 0 or not tail[start - 1].isalnum())


def _contains(text: str, word: str) -> bool:
    """Whether `text` holds the word after a character that cannot belong to it."""
    places = range(1, len(text) - len(word) + 1)
    return any(not text[i - 1].isalnum() and _begins(text[i:], word) for i in places)
