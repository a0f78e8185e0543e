"""The one loop from embeddings to captions: how tokens are chosen, in batches, and what may not come next."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from decoders.base import Decoded, DecodeOptions, StepNetwork, Vocabulary
from decoders.guidance import Guide, GuidedNetwork
from decoders.head import best_tokens, log_total, top_tokens
from patchioner.base.errors import DecoderError

# (states (m, width), bans, which rows they are (m,), step) -> chosen tokens and log-probabilities (m,)
Choose: TypeAlias = "Callable[[Tensor, StepBans, Tensor, int], tuple[Tensor, Tensor]]"

Search: TypeAlias = "Callable[..., list[Hypothesis]]"

_BEAM_COPIES = 3  # scores, log-probabilities and the cache while beams are reordered
_TOP = 64  # tokens that nearly always hold the draw
_LARGE = 512  # tokens from which finding those beats sorting all


class Hypothesis(NamedTuple):
    """Generated tokens, the end token included, and the log-probability of each."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]


@torch.inference_mode()
def generate(
    network: StepNetwork,
    vocabulary: Vocabulary,
    embeddings: Tensor,
    options: DecodeOptions,
    device: torch.device,
    guide: Guide | None = None,
) -> list[Decoded]:
    """As `Decoder.generate`, of checked embeddings, by a network in evaluation mode on `device`.

    A row's caption does not depend on the others, up to the rounding of the platform's matrix product.
    """
    if options.max_tokens > network.max_tokens:
        raise DecoderError(
            f"max_tokens is {options.max_tokens}, but this decoder has positions for "
            f"{network.max_tokens}; lower max_tokens"
        )
    if not len(embeddings):
        return []
    parts = [embeddings]
    if guide is not None:
        network = GuidedNetwork(network, vocabulary, guide)
        parts += [guide.around, guide.evidence]
    rows = torch.cat([part.detach().to(device, torch.float32) for part in parts], dim=1)
    distinct, places = distinct_rows(rows)
    constraints = Constraints(vocabulary, options, device)
    searches = {"greedy": greedy_search, "beam": beam_search, "sample": sample_search}
    search: Search = searches[options.strategy]
    if search is greedy_search and device.type == "cuda":
        from decoders.cuda_graph import can_capture, graph_search

        search = graph_search if can_capture(network, constraints) else search
    found: list[Hypothesis] = []
    size = rows_per_batch(network, options)
    for first in range(0, len(distinct), size):
        part = distinct[first : first + size]
        found += search(network, part, constraints)
    captions = [Decoded(vocabulary.decode(ids), ids, log_probs) for ids, log_probs in found]
    return [captions[place] for place in places]


def distinct_rows(embeddings: Tensor) -> tuple[Tensor, list[int]]:
    """Each different row once, in order of appearance, and for each row which of them it is."""
    keys = [row.tobytes() for row in embeddings.cpu().numpy()]
    firsts = {key: index for index, key in reversed(list(enumerate(keys)))}
    order = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    return embeddings[[firsts[key] for key in order]], [order[key] for key in keys]


def rows_per_batch(network: StepNetwork, options: DecodeOptions) -> int:
    """Rows that fit the memory budget, at least one."""
    row = network.row_bytes(options.max_tokens)
    if options.strategy == "beam":
        row *= _BEAM_COPIES * options.beam_width
    return max(1, int(options.batch_memory_mb * 2**20 / row))


def greedy_search(
    network: StepNetwork, embeddings: Tensor, constraints: Constraints
) -> list[Hypothesis]:
    """The likeliest token at every step, for each row of (n, dim) embeddings."""
    head = network.head

    def choose(states: Tensor, bans: StepBans, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
        return best_tokens(head, states, bans, scores=constraints.options.scores)

    return _search(network, embeddings, constraints, choose)


def sample_search(
    network: StepNetwork, embeddings: Tensor, constraints: Constraints
) -> list[Hypothesis]:
    """A token drawn at every step, by inverting the cumulative distribution with uniform numbers of the row's own."""
    options = constraints.options
    uniforms = row_uniforms(embeddings, options.max_tokens, seed=options.seed)
    draws = torch.from_numpy(uniforms).to(embeddings.device)
    head = network.head

    def choose(states: Tensor, bans: StepBans, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
        logits = head.logits(states, 0, head.vocab_size)
        total = log_total(head, logits)  # before the bans: scores are the network's own
        bans.apply(logits)
        chosen = draw(logits / options.temperature, draws[rows, step], options.top_p)
        return chosen, logits.gather(1, chosen[:, None]).squeeze(1) - total

    return _search(network, embeddings, constraints, choose)


def draw(logits: Tensor, uniforms: Tensor, top_p: float) -> Tensor:
    """Tokens (n,) of (n, vocab) logits, drawn from the nucleus of mass `top_p` (Holtzman et al. 2020).

    `uniforms` (n,) float64 in [0, 1) are the quantiles to take within the nucleus.
    """
    if logits.shape[1] < _LARGE:
        return _draw_sorted(logits, uniforms, top_p)
    # Nearly every draw is among the likeliest few; the order of equal ones is that of the vocabulary.
    order = logits.topk(_TOP, dim=1).indices.sort(dim=1).values
    ordered, among = logits.gather(1, order).sort(dim=1, descending=True, stable=True)
    order, highest = order.gather(1, among), ordered[:, :1]
    total = (logits - highest).exp().sum(dim=1, keepdim=True).double()
    probabilities = (ordered - highest).double().exp() / total
    mass = probabilities.cumsum(dim=1)
    last = (mass - probabilities < top_p).sum(dim=1, keepdim=True).clamp(1, _TOP) - 1
    whole = mass.gather(1, last) if top_p < 1 else torch.ones_like(mass[:, :1])
    place = torch.searchsorted(mass, uniforms.unsqueeze(1) * whole, right=True).minimum(last)
    chosen = order.gather(1, place).squeeze(1)
    sure = (ordered.gather(1, place) > ordered[:, -1:]) & ((mass[:, -1:] >= top_p) | (top_p == 1))
    rest = (~sure).squeeze(1).nonzero().squeeze(1)
    if len(rest):
        chosen[rest] = _draw_sorted(logits[rest], uniforms[rest], top_p)
    return chosen


def _draw_sorted(logits: Tensor, uniforms: Tensor, top_p: float) -> Tensor:
    """`draw` by sorting the whole vocabulary."""
    ordered, order = logits.sort(dim=1, descending=True, stable=True)
    probabilities = ordered.double().softmax(dim=1)
    mass = probabilities.cumsum(dim=1)
    # A token is inside when the mass before it is still short of top_p; the first always is.
    inside = (mass - probabilities < top_p) & (probabilities > 0)
    inside[:, 0] = True
    last = inside.sum(dim=1, keepdim=True) - 1
    quantile = uniforms.unsqueeze(1) * mass.gather(1, last)
    place = torch.searchsorted(mass, quantile, right=True).minimum(last)
    return order.gather(1, place).squeeze(1)


def row_uniforms(
    embeddings: Tensor, count: int, *, seed: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """(n, count) uniform numbers in [0, 1), each row a function of `seed` and of its embedding.

    Of an embedding only the signs count: the last bits of a matrix product vary with the number of
    its rows, and a draw must not depend on the batch.
    """
    rows = np.packbits((embeddings > 0).cpu().numpy(), axis=1)
    uniforms = np.empty((len(rows), count))
    for place, row in enumerate(rows):
        digest = hashlib.blake2b(row.tobytes(), digest_size=16, salt=seed.to_bytes(16, "little"))
        stream = np.random.default_rng(int.from_bytes(digest.digest(), "little"))
        uniforms[place] = stream.random(count)
    return uniforms


def _search(
    network: StepNetwork, embeddings: Tensor, constraints: Constraints, choose: Choose
) -> list[Hypothesis]:
    options = constraints.options
    count, device = len(embeddings), embeddings.device
    tokens = torch.full((count, options.max_tokens), -1, dtype=torch.int64, device=device)
    log_probs = torch.zeros((count, options.max_tokens), dtype=torch.float32, device=device)
    active = torch.arange(count, device=device)
    ends = constraints.ends
    states, cache = network.start(embeddings, options.max_tokens)
    for step in range(options.max_tokens):
        bans = constraints.at(tokens[active, :step])
        chosen, values = choose(states, bans, active, step)
        tokens[active, step], log_probs[active, step] = chosen, values
        kept = close_ranks(torch.isin(chosen, ends, invert=True))
        if step + 1 == options.max_tokens or not len(kept):
            break
        if len(kept) < len(active):
            active, chosen = active[kept], chosen[kept]
            cache.select(kept)
        states = network.step(chosen, cache)
    return hypotheses(tokens.tolist(), log_probs.tolist())


def close_ranks(going: Tensor) -> Tensor:
    """The places (m,) int64 of rows that go on: each stays where it is, or fills the place of one that ended.

    So a row that ends costs its cache the copy of one row: of five rows 0, 2, 4 give [0, 4, 2].
    """
    places = going.nonzero().squeeze(1)
    count = len(places)
    kept = torch.arange(count, device=going.device)
    kept[(~going[:count]).nonzero().squeeze(1)] = places[places >= count]
    return kept


def hypotheses(
    tokens: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]
) -> list[Hypothesis]:
    """Rows of tokens, padded with -1, and of log-probabilities, without the padding."""
    found = []
    for ids, values in zip(tokens, log_probs, strict=True):
        length = sum(token >= 0 for token in ids)
        found.append(Hypothesis(tuple(ids[:length]), tuple(values[:length])))
    return found


def beam_search(
    network: StepNetwork, embeddings: Tensor, constraints: Constraints
) -> list[Hypothesis]:
    """The best finished hypothesis of each row of (n, dim) embeddings.

    A row stops once `beam_width` hypotheses have ended, or no living one can still win. A row where none has ended by
    `max_tokens` gives its best living one, cut. Width 1 equals greedy.
    """
    beams, options = _Beams(embeddings, constraints), constraints.options
    head, width = network.head, options.beam_width
    # Each hypothesis can end in `len(ends)` ways: with one more than that of each, enough remain to go on.
    most = (1 + len(constraints.ends)) * width
    states, cache = network.start(embeddings, options.max_tokens)
    log_probs, tokens = top_tokens(head, states, constraints.at(beams.written(0)[::width]), most)
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
        bans = constraints.at(beams.written(step + 1))
        log_probs, tokens = top_tokens(head, states, bans, most)
    return beams.best()


class _Beams:
    """Living hypotheses (m rows still going, width) and the best finished one of every row."""

    def __init__(self, embeddings: Tensor, constraints: Constraints) -> None:
        self.options = options = constraints.options
        self.ends = constraints.ends
        count, width, device = len(embeddings), options.beam_width, embeddings.device
        shape = (count, width, options.max_tokens)
        self.rows = torch.arange(count, device=device)  # which input each living row is
        self.tokens = torch.zeros(shape, dtype=torch.int64, device=device)
        self.log_probs = torch.zeros(shape, dtype=torch.float32, device=device)
        self.sums = torch.full((count, width), -torch.inf, dtype=torch.float32, device=device)
        self.sums[:, 0] = 0.0  # all start alike, so only one may be extended at first
        self.ended = torch.zeros(count, dtype=torch.int64, device=device)  # how many, of each input
        self.scores = torch.full((count,), -torch.inf, dtype=torch.float64, device=device)
        self.won_tokens = torch.full(
            (count, options.max_tokens), -1, dtype=torch.int64, device=device
        )
        self.won_log_probs = torch.zeros(
            (count, options.max_tokens), dtype=torch.float32, device=device
        )

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
        parents = places // each
        chosen = tokens.view(rows, width * each).gather(1, places)
        steps = log_probs.view(rows, width * each).gather(1, places)
        ended = torch.isin(chosen, self.ends) & (sums > -torch.inf)
        self._finish(parents, chosen, sums, steps, ended, step)
        # Living candidates first, each kind in order of score.
        order = ended.long().argsort(dim=1, stable=True)[:, :width]
        self._take(parents.gather(1, order), chosen.gather(1, order), steps.gather(1, order), step)
        self.sums = sums.gather(1, order).masked_fill(ended.gather(1, order), -torch.inf)
        return self._drop_done(parents.gather(1, order))

    def best(self) -> list[Hypothesis]:
        """The winner of every row."""
        cut = (self.ended[self.rows] == 0).nonzero().squeeze(1)
        if len(cut):
            beams = self.sums[cut].argmax(dim=1)
            self.won_tokens[self.rows[cut]] = self.tokens[cut, beams]
            self.won_log_probs[self.rows[cut]] = self.log_probs[cut, beams]
        return hypotheses(self.won_tokens.tolist(), self.won_log_probs.tolist())

    def _finish(
        self, parents: Tensor, tokens: Tensor, sums: Tensor, steps: Tensor, ended: Tensor, step: int
    ) -> None:
        """File the best candidate that ended among the best `width`; a lower one is no winner."""
        ended = ended[:, : self.options.beam_width]
        self.ended[self.rows] += ended.sum(dim=1)
        rank = ended.long().argmax(dim=1, keepdim=True)  # the first: they are in order of score
        scores = sums.gather(1, rank).squeeze(1).double() / self._length(step + 1)
        better = (ended.any(dim=1) & (scores > self.scores[self.rows])).nonzero().squeeze(1)
        if not len(better):
            return
        row, rank = self.rows[better], rank[better]
        parent = parents[better].gather(1, rank).squeeze(1)
        self.scores[row] = scores[better]
        self.won_tokens[row, :step] = self.tokens[better, parent, :step]
        self.won_log_probs[row, :step] = self.log_probs[better, parent, :step]
        self.won_tokens[row, step] = tokens[better].gather(1, rank).squeeze(1)
        self.won_log_probs[row, step] = steps[better].gather(1, rank).squeeze(1)

    def _take(self, parents: Tensor, tokens: Tensor, steps: Tensor, step: int) -> None:
        rows = torch.arange(len(parents), device=parents.device)[:, None]
        self.tokens = self.tokens[rows, parents]
        self.log_probs = self.log_probs[rows, parents]
        self.tokens[:, :, step] = tokens
        self.log_probs[:, :, step] = steps

    def _drop_done(self, parents: Tensor) -> Tensor:
        """Let rows leave that are done; the rest stays in place where it can (see `close_ranks`)."""
        # Sums only fall, and a longer caption divides by more: the best that may still come.
        reach = self.sums.amax(dim=1).double() / self._length(self.options.max_tokens)
        found = self.ended[self.rows]
        done = (found >= self.options.beam_width) | (
            (found > 0) & (self.scores[self.rows] >= reach)
        )
        kept = close_ranks(~done)
        if len(kept) < len(self.rows):
            self.rows, self.tokens = self.rows[kept], self.tokens[kept]
            self.log_probs, self.sums = self.log_probs[kept], self.sums[kept]
        return (kept[:, None] * self.options.beam_width + parents[kept]).flatten()

    def _length(self, tokens: int) -> float:
        return float(tokens**self.options.length_penalty)


class StepBans:
    """What may not come next at one step.

    Args:
        never: sorted token ids that no row may write, as a list and as a tensor where the logits are.
        repeats: tokens (n, k) that rows have written, and whether (n, k) each would repeat an n-gram; or None.
        words: rows and tokens of banned words.
    """

    def __init__(
        self,
        never: tuple[list[int], Tensor],
        repeats: tuple[Tensor, Tensor] | None = None,
        words: tuple[list[int], list[int]] = ([], []),
    ) -> None:
        self._never_list, self._never = never
        self._repeats, self._words = repeats, words

    def apply(self, logits: Tensor, first: int = 0) -> None:
        """Set banned tokens of (n, m) float or int32 logits, from token `first` on, to the least value, in place."""
        least, most = _extremes(logits.dtype)
        last = first + logits.shape[1]
        low, high = bisect_left(self._never_list, first), bisect_left(self._never_list, last)
        if low < high:
            logits.index_fill_(1, self._never[low:high] - first, least)
        if self._repeats is not None:
            tokens, banned = self._repeats
            banned = banned & (tokens >= first) & (tokens < last)
            ceilings = torch.full_like(tokens, most, dtype=logits.dtype)
            ceilings.masked_fill_(banned, least)
            places = (tokens - first).clamp(0, last - first - 1)
            logits.scatter_reduce_(1, places, ceilings, "amin")
        inside = [pair for pair in zip(*self._words, strict=True) if first <= pair[1] < last]
        if inside:
            rows, columns = zip(*inside, strict=True)
            logits[list(rows), [column - first for column in columns]] = least

    def rows(self, first: int, last: int) -> StepBans:
        """The same for some of the rows alone."""
        repeats = None
        if self._repeats is not None:
            repeats = self._repeats[0][first:last], self._repeats[1][first:last]
        kept = [
            (row - first, i) for row, i in zip(*self._words, strict=True) if first <= row < last
        ]
        words = [row for row, _ in kept], [i for _, i in kept]
        return StepBans((self._never_list, self._never), repeats, words)


class Constraints:
    """The options and bans of one call of the loop, and the tokens that end a caption, where the logits are."""

    def __init__(
        self, vocabulary: Vocabulary, options: DecodeOptions, device: torch.device
    ) -> None:
        self.options = options
        self.ends = torch.tensor(vocabulary.end_ids, device=device)
        unwritable = set(vocabulary.unwritable_ids)
        self._never = _sorted_ids(unwritable, device)
        self._never_or_end = _sorted_ids(unwritable | set(vocabulary.end_ids), device)
        self._texts = (
            [text.lower() for text in vocabulary.token_texts()] if options.banned_words else []
        )
        words = sorted({" ".join(word.lower().split()) for word in options.banned_words})
        self._banned = [_BannedWord(word, self._texts) for word in words]

    @property
    def reads_tokens(self) -> bool:
        """Whether the bans depend on the written tokens' texts, which are looked up on the host."""
        return bool(self._banned)

    def at(self, written: Tensor) -> StepBans:
        """The bans of one step, after the tokens `written` (n, t) int64."""
        early = written.shape[1] < self.options.min_tokens
        size = self.options.no_repeat_ngram
        repeats = _repeats(written, size) if 0 < size <= written.shape[1] else None
        return StepBans(self._never_or_end if early else self._never, repeats, self._words(written))

    def _words(self, written: Tensor) -> tuple[list[int], list[int]]:
        rows: list[int] = []
        forbidden: list[int] = []
        for row, tokens in enumerate(written.tolist() if self._banned else ()):
            tail = "".join(self._texts[token] for token in tokens)
            ids = sorted({i for word in self._banned for i in word.completed_by(tail)})
            rows += [row] * len(ids)
            forbidden += ids
        return rows, forbidden


def _extremes(dtype: torch.dtype) -> tuple[float, float]:
    if dtype.is_floating_point:
        return -torch.inf, torch.inf
    return torch.iinfo(dtype).min, torch.iinfo(dtype).max


def _sorted_ids(ids: Iterable[int], device: torch.device) -> tuple[list[int], Tensor]:
    ordered = sorted(ids)
    return ordered, torch.tensor(ordered, dtype=torch.int64, device=device)


def _repeats(written: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The last token of every n-gram written, and whether it would now write that n-gram again."""
    ngrams = written.unfold(1, size, 1)
    begun = written[:, None, written.shape[1] - size + 1 :]
    return ngrams[:, :, -1], (ngrams[:, :, :-1] == begun).all(dim=2)


class _BannedWord:
    """Which tokens would complete one banned word or phrase, however it is cut into tokens."""

    def __init__(self, word: str, texts: Sequence[str]) -> None:
        self._word = word
        # By number of characters already written: tokens that write the rest.
        self._rest: list[list[int]] = [
            [i for i, text in enumerate(texts) if _begins(text, word[done:])]
            for done in range(len(word))
        ]
        self._whole = [i for i, text in enumerate(texts) if _contains(text, word)]

    def completed_by(self, tail: str) -> list[int]:
        forbidden = list(self._whole)
        for done, tokens in enumerate(self._rest):
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
