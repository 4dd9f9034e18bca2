"""The masked sampler: codebook after codebook, first all frames at once, then the least certain of them again.

It is MAGNeT's (Ziv et al. 2024). A stage makes one codebook in some passes. A pass masks the spans whose codes are the
least certain, fewer in every pass, and draws their codes anew from one forward pass over all frames; what a pass does
not mask is fixed for good. Temperature and guidance fall from pass to pass.

Letters: B batch, G guidance branches, T frames, K codebooks, V codebook size, L span length, C chunks (spans that stand
side by side), P passes of all stages.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from autosong_jax.errors import UserError
from autosong_jax.models.song import SongModel
from autosong_jax.sampling.guidance import combine
from autosong_jax.sampling.tokens import Choice, choose, log_probability
from autosong_jax.sampling.windows import Piece
from autosong_jax.sources.memory import Memory

CONFIDENCES = ("max", "product")
FIXED = -1e4  # the uncertainty of what stays; a span that reaches into it ranks below all that do not
MIN_TEMPERATURE = 0.01
STRIDE = 2  # passes, after which progress is reported
HIDDEN = 4  # passes of a codebook by which a song that stands is judged; each hides other spans


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is compiled into a sampler.

    Attributes:
      steps: passes of each of the K stages.
      span_length: L, in frames.
      arrangement: "nonoverlap" masks whole chunks, "stride1" spans that begin at any frame.
      confidence: what a chunk's is made of, the "max" or the "product" of the probabilities of its codes. Spans of
        "stride1" always take the product.
      anneal: whether the temperature falls from pass to pass.
      trim: whether no more than whole spans are made, and the model sees no more than that; see `frames`.
    """

    steps: tuple[int, ...]
    span_length: int = 3
    arrangement: str = "nonoverlap"
    confidence: str = "max"
    anneal: bool = True
    trim: bool = False

    def frames(self, num_frames: int) -> int:
        """How many frames of `num_frames` are made together: with `trim`, only those that fill chunks (if any do)."""
        if not self.trim or self.arrangement != "nonoverlap":
            return num_frames
        return num_frames - num_frames % self.span_length or num_frames

    def window(self, num_frames: int, longest: int) -> int:
        """How many frames a model that knows `longest` sees of a song of `num_frames`.

        With `trim`, as in the released sampler, those of the song; else all that it knows, masked from the end on.
        """
        return self.frames(min(num_frames, longest)) if self.trim else longest

    def check(self, num_codebooks: int) -> None:
        """Raises UserError unless this is a plan for `num_codebooks`."""
        if len(self.steps) != num_codebooks or min(self.steps) < 1:
            raise UserError(f"sampling.masked.steps {list(self.steps)}: expected {num_codebooks} numbers of passes, at "
                            "least 1, one for each codebook of the codec; `generate` takes others by --steps")
        for name, value, known in [("arrangement", self.arrangement, ARRANGEMENTS),
                                   ("confidence", self.confidence, CONFIDENCES)]:
            if value not in known:
                raise UserError(f"sampling.masked.{name} {value!r}: expected one of {', '.join(known)}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Passes:
    """What each pass does, the stages one after another.

    Attributes:
      index: int32 [P], 0 .. P - 1.
      stage: int32 [P], the codebook that is made.
      first: bool [P], whether it is the first of its stage.
      share: float32 [P], the masked share of what is to be made: cos(pi/2 i/(S-1)) in pass i of S.
      heat: float32 [P], the share of the temperature: (S-1-i)/S.
    """

    index: Array
    stage: Array
    first: Array
    share: Array
    heat: Array

    @classmethod
    def of(cls, stages: Sequence[int], steps: Sequence[int]) -> "Passes":
        """`steps[k]` passes for each k of `stages`."""
        step = np.concatenate([np.arange(steps[k]) for k in stages])
        total = np.concatenate([np.full(steps[k], steps[k]) for k in stages])
        return cls(index=(sum(steps[:stages[0]]) + np.arange(len(step))).astype(np.int32),
                   stage=np.concatenate([np.full(steps[k], k, np.int32) for k in stages]), first=step == 0,
                   share=_share(step, total), heat=((total - 1 - step) / total).astype(np.float32))


def _share(step: np.ndarray, total: np.ndarray) -> np.ndarray:
    """cos(pi/2 step / (total - 1)), float32.

    Rounded as the released sampler's `linspace` is: a share of a count is rounded down, and 1/2 of 4 may be 2 or 1.
    """
    pace = (1 / np.maximum(total - 1, 1)).astype(np.float32).astype(np.float64)
    time = np.where(step < total // 2, pace * step, 1 - pace * (total - 1 - step)).astype(np.float32)
    time[total == 1] = 0
    angle = time * np.float32(np.pi) * np.float32(0.5)
    return np.cos(angle.astype(np.float64)).astype(np.float32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Request:
    """Which songs are asked for.

    Attributes:
      weights: float32 [2, G], of the branches where everything is masked and where nothing is
        (`guidance.annealed_branches`).
      keys: PRNG keys [B], one a song.
      codes: int32 [B, T, K]; what stands in frames that are not given is not read.
      given: bool [B, T], the frames that stay as they are, wherever they stand.
      max_frames: int32 [B], at most T: songs are over after so many frames, or earlier where the model says so.
      choice: how ids are drawn; its temperature is that of a stage's beginning, 0 is greedy.
      judged_by: arrays for the judge, if there is one; see `Sampler.__call__`.
      weight: float32 [], from 0 to 1, the judge's.
    """

    weights: Array
    keys: Array
    codes: Array
    given: Array
    max_frames: Array
    choice: Choice
    judged_by: Any = None
    weight: float | Array = 0.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SamplerState:
    """Where sampling stands.

    Attributes:
      ids: int32 [B, T, K], the special id where nothing stands yet and after the end.
      end: int32 [B], the number of frames after which each song is over, as far as is known.
      scores: float32, how uncertain the last pass was of each chunk or frame; `FIXED` for what it did not make.
    """

    ids: Array
    end: Array
    scores: Array


class Sampler:
    """Samples the frames of songs that are not given, with one model.

    A model with end of song may say that a song is over, at a frame of the first codebook with none given after it:
    where the end is more probable than any code. (Drawn as codes are, at high temperatures, it would come too soon.)

    Args:
      graph: the model without its parameters; trained to fill spans in.
    """

    def __init__(self, graph: Any):
        self._graph = graph
        self._begin = jax.jit(self._begun, static_argnames="plan")
        self._advance = jax.jit(self._advanced, static_argnames=("plan", "judge", "local"))

    def __call__(self, params: Any, memory: Memory, request: Request, plan: Plan, judge: Callable | None = None
                 ) -> tuple[Array, Array]:
        """Samples songs.

        Args:
          params: of the model.
          memory: of G B examples, branch after branch.
          request: of B songs.
          plan: see `Plan`.
          judge: (judged_by, codes int32 [B, T, K], stage []) -> log probabilities [B, T] of the codes of that stage, by
            another model: codes are judged by the weighted mean of both models' probabilities. The same object for the
            same model.

        Returns:
          codes int32 [B, T, K], the special id from each song's end on; num_frames int32 [B].
        """
        *_, (state, _) = self._states(params, memory, request, plan, judge, sum(plan.steps))
        return state.ids, state.end

    def pieces(self, params: Any, memory: Memory, request: Request, plan: Plan, judge: Callable | None = None,
               stride: int | None = None) -> Iterator[Piece]:
        """What a call gives, all at once: no frame is complete before the last pass. Arguments as above.

        Args:
          stride: unless it is None, pieces of no frames say every few passes how many are done.
        """
        count = sum(plan.steps)
        none, ends = np.zeros((*request.given.shape[:1], 0, len(plan.steps)), np.int32), np.asarray(request.max_frames)
        for state, done in self._states(params, memory, request, plan, judge, STRIDE if stride else count):
            if stride and done < count:
                jax.block_until_ready(state)
                yield Piece(0, none, ends, done / count)
        yield Piece(0, *jax.device_get((state.ids, state.end)), 1.0)

    def _states(self, params, memory, request, plan, judge, stride: int) -> Iterator[tuple[SamplerState, int]]:
        """The state every `stride` passes of a stage, as soon as the passes after it are on their way; how many."""
        state = self._begin(params, request, plan=plan)
        # The first codebook sees the whole song, the others what is near them.
        for local, stages in [(False, range(1)), (True, range(1, len(plan.steps)))][:len(plan.steps)]:
            passes = Passes.of(stages, plan.steps)
            count = len(passes.index)
            for first in range(0, count, stride):
                before, state = state, self._advance(params, memory, request, state, passes, first,
                                                     min(first + stride, count), plan=plan, judge=judge, local=local)
                if passes.index[first]:
                    yield before, int(passes.index[first])
        yield state, sum(plan.steps)

    def _begun(self, params, request, *, plan: Plan) -> SamplerState:
        """The state before the first pass."""
        special = nnx.merge(self._graph, params).frames.special
        given, end = _inside(request), request.max_frames.astype(jnp.int32)
        ids = jnp.where(given[..., None], request.codes, special).astype(jnp.int32)
        scores = ARRANGEMENTS[plan.arrangement](given, end, plan).start
        # Of no weak type, as after a pass: the passes after others are then the same program.
        return SamplerState(ids, end, scores.astype(jnp.float32))

    def _advanced(self, params, memory, request, state, passes, first, until, *, plan: Plan, judge, local: bool
                  ) -> SamplerState:
        """The state after passes `first` to `until` - 1 of `passes`."""
        model = nnx.merge(self._graph, params)
        special, branches, greedy = model.frames.special, request.weights.shape[1], request.choice.temperature == 0
        weights, given, frames = request.weights, _inside(request), jnp.arange(request.given.shape[1])
        may_end = frames > jnp.max(jnp.where(given, frames, -1), axis=1, keepdims=True)
        arrange = ARRANGEMENTS[plan.arrangement]

        def make_pass(i: Array, state: SamplerState) -> SamplerState:
            now = jax.tree.map(lambda x: x[i], passes)
            spans = arrange(given, state.end, plan)
            scores = jnp.where(now.first, spans.start, state.scores)
            free = ~given & (frames < state.end[:, None])
            masked = (spans.masked(scores, now.share) | now.first) & free
            row = jax.lax.dynamic_index_in_dim(state.ids, now.stage, axis=2, keepdims=False)
            ids = _set_codebook(state.ids, now.stage, jnp.where(masked, special, row))
            logits = model(jnp.tile(ids, (branches, 1, 1)), memory, local=jnp.bool_(local), codebook=now.stage)
            logits = combine(logits[:, :, 0], now.share * weights[0] + (1 - now.share) * weights[1])
            over = (jnp.argmax(logits, axis=-1) == special) & masked & may_end & (now.stage == 0)
            end = jnp.min(jnp.where(over, frames, state.end[:, None]), axis=1)
            logits = logits[..., :special]
            heat = request.choice.temperature * (now.heat if plan.anneal else 1)
            heat = jnp.where(greedy, 0, jnp.maximum(heat, MIN_TEMPERATURE))
            drawn = choose(logits, jax.vmap(jax.random.fold_in, (0, None))(request.keys, now.index),
                           dataclasses.replace(request.choice, temperature=heat))
            ids = _set_codebook(ids, now.stage, jnp.where(masked, drawn, row))
            inside = frames < end[:, None]
            ids = jnp.where(inside[..., None], ids, special)
            # Greedy codes are judged at temperature 1: at 0 all of them would be certain.
            log_p = jax.nn.log_softmax(logits / jnp.where(greedy, 1, heat))
            log_p = jnp.take_along_axis(log_p, drawn[..., None], axis=-1)[..., 0]
            if judge is not None:
                log_p = jnp.logaddexp(jnp.log(request.weight) + judge(request.judged_by, ids, now.stage),
                                      jnp.log1p(-request.weight) + log_p)
            return SamplerState(ids, end, arrange(given, end, plan).scores(-log_p, masked & inside))

        return jax.lax.fori_loop(first, until, make_pass, state)


def log_probabilities(model: SongModel, memory: Memory, codes: Array, span_length: int) -> Array:
    """How probable codes are to a model that fills in: a pseudo-likelihood (Besag 1975; of masked models Salazar et al.
    2020, "Masked Language Model Scoring").

    Every code is predicted once, from the conditions and what the model reads in the stage of its codebook: the
    codebooks before it, and of its own those spans that are not hidden together with it, a `HIDDEN`th of them. These
    are conditional probabilities of overlapping sets, so their product is no probability of the song.

    Args:
      model: trained to fill spans in.
      memory: of B examples.
      codes: int32 [B, T, K], the special id after the end.
      span_length: L.

    Returns:
      float32 [B, T], the mean over the codebooks of a frame; after the end it means nothing.
    """
    special, codebooks = model.frames.special, jnp.arange(codes.shape[2])
    group = jnp.arange(codes.shape[1]) // span_length % HIDDEN

    def of_pass(i: Array) -> Array:
        stage, hidden = i // HIDDEN, group == i % HIDDEN
        read = (codebooks < stage) | (codebooks == stage) & ~hidden[:, None]
        logits = model(jnp.where(read, codes, special), memory, local=stage > 0, codebook=stage)[:, :, 0, :special]
        row = jax.lax.dynamic_index_in_dim(codes, stage, axis=2, keepdims=False)
        return jnp.where(hidden, log_probability(logits, row), 0)

    return jax.lax.map(of_pass, jnp.arange(HIDDEN * codes.shape[2])).sum(axis=0) / codes.shape[2]


def _inside(request: Request) -> Array:
    """bool [B, T], the given frames within the songs."""
    return request.given & (jnp.arange(request.given.shape[1]) < request.max_frames[:, None])


def _set_codebook(ids: Array, codebook: Array, row: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(ids, row, codebook, axis=2)


class Chunks:
    """Spans that stand side by side, the first at frame 0. The last is longer where the length is no multiple of L.

    A chunk is to be made if any of its frames is. Scores are [B, C].

    Args:
      given: bool [B, T], the frames that stay.
      num_frames: int32 [B].
      plan: see `Plan`.
    """

    def __init__(self, given: Array, num_frames: Array, plan: Plan):
        frames, length = given.shape[1], plan.span_length
        count = max(frames // length, 1)
        self._of_frame = jnp.minimum(jnp.arange(frames) // length, jnp.maximum(num_frames // length, 1)[:, None] - 1)
        # Frames that may be in each chunk, and whether they are: what is computed of chunks is then a sum or minimum
        # over the last axis, the same at every run, which scattered sums on a GPU are not.
        at = length * np.arange(count)[:, None] + np.arange(2 * length - 1)
        self._frames = np.minimum(at, frames - 1)
        inside = (at < frames) & (self._frames < num_frames[:, None, None])
        self._member = inside & (self._of_frame[:, self._frames] == np.arange(count)[:, None])
        self._reduce = jnp.min if plan.confidence == "max" else jnp.sum
        fixed = self._all(given)
        self._free = count - fixed.sum(axis=1)
        self.start = jnp.where(fixed, FIXED, 0.0)

    def masked(self, scores: Array, share: Array) -> Array:
        """bool [B, T], the frames of the least certain chunks, `share` of those that are to be made."""
        count = jnp.maximum(jnp.floor(share * self._free), 1)
        return jnp.take_along_axis(_ranks(scores) < count[:, None], self._of_frame, axis=1)

    def scores(self, uncertainty: Array, masked: Array) -> Array:
        """Scores for the next pass from -log p [B, T] and what this pass has `masked`; the rest is fixed."""
        # max over p is min over -log p, and 1 - p is in the order of -log p.
        empty = jnp.inf if self._reduce is jnp.min else 0.0
        scores = self._reduce(jnp.where(self._member, uncertainty[:, self._frames], empty), axis=-1)
        return jnp.where(self._all(~masked), FIXED, scores)

    def _all(self, x: Array) -> Array:
        """bool [B, T] -> [B, C], whether all frames of a chunk are so."""
        return jnp.all(x[:, self._frames] | ~self._member, axis=-1)


class Stride1:
    """Spans that begin at any frame. Scores are those of frames, [B, T]; that of a span is their sum.

    Args: as of `Chunks`.
    """

    def __init__(self, given: Array, num_frames: Array, plan: Plan):
        frames, free = jnp.arange(given.shape[1]), ~given & (jnp.arange(given.shape[1]) < num_frames[:, None])
        self._length, self._free = plan.span_length, free.sum(axis=1)
        self._whole = frames <= num_frames[:, None] - plan.span_length
        self.start = jnp.where(free, 0.0, FIXED)

    def masked(self, scores: Array, share: Array) -> Array:
        """bool [B, T], the frames of the least certain spans, of which about `share` is masked by as many as it takes.

        How many that is, is found by bisection, which ends with the last number it has tried, as the released sampler's
        does.
        """
        target = jnp.maximum(jnp.floor(share * self._free).astype(jnp.int32), self._length)
        ranks = _ranks(jnp.where(self._whole, self._sums(scores), -jnp.inf))

        def bisect(state):
            low, high, middle, _ = state
            above = self._union(ranks < middle[:, None]).sum(axis=1) > target
            unsettled = (low < middle) & (middle < high)
            tried = jnp.where(unsettled, middle, state[3])
            low = jnp.where(unsettled & ~above, middle, low)
            high = jnp.where(unsettled & above, middle, high)
            return low, high, jnp.where(unsettled, _halfway(low, high), middle), tried

        low, high = target // self._length, target - self._length + 1
        state = (low, high, _halfway(low, high), _halfway(low, high))
        *_, tried = jax.lax.while_loop(lambda s: jnp.any((s[0] < s[2]) & (s[2] < s[1])), bisect, state)
        return self._union(ranks < tried[:, None])

    def scores(self, uncertainty: Array, masked: Array) -> Array:
        """As of `Chunks`."""
        return jnp.where(masked, uncertainty, FIXED)

    def _sums(self, x: Array) -> Array:
        """[B, T] -> [B, T], each frame's and the next L - 1, zeros after the end."""
        padded = jnp.pad(x, ((0, 0), (0, self._length - 1)))
        return sum(padded[:, i:i + x.shape[1]] for i in range(self._length))

    def _union(self, starts: Array) -> Array:
        """bool [B, T], span starts -> bool [B, T], what the spans cover."""
        covered = starts
        for i in range(1, self._length):
            covered |= jnp.pad(starts, ((0, 0), (i, 0)))[:, :starts.shape[1]]
        return covered


def _ranks(scores: Array) -> Array:
    """int32 [B, N]: 0 for the highest score of a row, and so on; of equal ones the first comes first."""
    return jnp.argsort(jnp.argsort(-scores, axis=1), axis=1)


def _halfway(low: Array, high: Array) -> Array:
    """Between two integers; of two that are as near the even one."""
    return jnp.round((low + high) / 2).astype(jnp.int32)


ARRANGEMENTS = {"nonoverlap": Chunks, "stride1": Stride1}
