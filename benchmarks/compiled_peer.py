"""The peer of decoding at its best on a GPU: transformers' MusicGen with a static cache, its step compiled by PyTorch.

`transformers.generate` starts every kernel of every step from Python. Here a whole step, guidance and the drawing of
ids included, is one compiled function, which PyTorch replays as a CUDA graph; Python only calls it. One line of
transformers is replaced: the table of positions is grown behind a branch on a number that is on the device, where
compilation would have to cut the step in two.
"""

import time
from typing import Any

import numpy as np

from benchmarks.decode import FRAMES, GUIDANCE, TEXT_LENGTH, TOP_K, drawn_on
from benchmarks.shapes import CODEC, released


class CompiledPeer:
    """A decoder with random weights on a device.

    Args:
      size: of `shapes.SHAPES`.
      batch: songs at once.
      device: PyTorch's name of it.
      backend: of torch.compile: "inductor", with CUDA graphs; or "eager", which only traces.
    """

    def __init__(self, size: str, batch: int, device: str, backend: str = "inductor"):
        import torch
        import transformers
        from transformers.models.musicgen import modeling_musicgen

        modeling_musicgen.MusicgenSinusoidalPositionalEmbedding.forward = _positions
        self._batch, self._device = batch, device
        self._dtype = torch.bfloat16 if device == "cuda" else torch.float32
        config = transformers.MusicgenDecoderConfig(**released(size))
        config._attn_implementation = "sdpa"
        with drawn_on(device):
            self._model = transformers.MusicgenForCausalLM(config).eval().to(device, self._dtype)
        self._memory = torch.randn(2 * batch, TEXT_LENGTH, config.hidden_size, device=device, dtype=self._dtype)
        options = {"mode": "reduce-overhead"} if backend == "inductor" and device == "cuda" else {}
        self._step = torch.compile(self._stepped, backend=backend, fullgraph=True, **options)

    def _stepped(self, ids: Any, cache: Any) -> Any:
        """The ids [2 B K, 1] of the next step, of both branches of guidance."""
        import torch

        logits = self._model(input_ids=ids, encoder_hidden_states=self._memory, past_key_values=cache,
                             use_cache=True).logits[:, -1]
        given, dropped = logits.float().chunk(2)
        scores = dropped + GUIDANCE * (given - dropped)
        edge = scores.topk(TOP_K).values[:, -1:]
        drawn = torch.multinomial(torch.softmax(scores.masked_fill(scores < edge, -torch.inf), dim=-1), 1)
        return drawn.repeat(2, 1)

    def turns(self, begin: int, steps: int, repeats: int) -> list[float]:
        """Seconds of turns of `steps` steps, one after another from step `begin` on; the first, which compiles, apart.

        The cache is that of a whole song from the start, all of whose slots a static cache attends to.
        """
        import torch
        from transformers.cache_utils import DynamicCache, EncoderDecoderCache, StaticCache

        config, sync = self._model.config, torch.cuda.synchronize if self._device == "cuda" else lambda: None
        room = FRAMES + CODEC.num_codebooks
        cache = EncoderDecoderCache(StaticCache(config=config, max_cache_len=room), DynamicCache(config=config))
        prompt = np.random.default_rng(0).integers(
            CODEC.codebook_size, size=(2 * self._batch * CODEC.num_codebooks, max(begin, 1)))
        ids = torch.tensor(prompt, device=self._device)
        taken = []
        with torch.inference_mode():
            ids = self._stepped(ids, cache)  # reads the prompt, and projects the memory once
            for _ in range(1 + repeats):
                sync()
                started = time.perf_counter()
                for _ in range(steps):
                    if self._device == "cuda":
                        torch.compiler.cudagraph_mark_step_begin()
                    ids = self._step(ids, cache).clone()
                sync()
                taken.append(time.perf_counter() - started)
        return taken[1:]


def refused() -> int:
    """How often PyTorch has compiled something without a CUDA graph, which would have been the point of it."""
    from torch._dynamo.utils import counters

    return counters["inductor"]["cudagraph_skips"]


def _positions(self, input_ids: Any, past_key_values_length: Any = 0) -> Any:
    """The rows [S, D] of the table of positions, which is long enough from the start."""
    import torch

    steps = torch.arange(input_ids.shape[-1], device=self.weights.device) + past_key_values_length
    return self.weights.index_select(0, steps).detach()
