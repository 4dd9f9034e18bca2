"""From noise to the next latent by a velocity: flow matching, and the same distilled to few steps. See `head.Head`.

On the way from noise e at time 0 to a latent x at time 1 stands x_t = t x + (1 - t) e, which moves at x - e. Letters as
in `head`.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from autosong_jax.latents.head import linear, normals
from autosong_jax.latents.velocity import TIME_FEATURES, Velocity, time_features


class Flow(nnx.Module):
    """Flow matching (Lipman et al. 2023; Liu et al. 2023); see `head.Head`.

    The loss is the mean square of v(t, x_t) - (x - e), for times of which the logits are N(0.4, 1).

    Sampling takes steps by the midpoint rule, each with two velocities. As many of Euler's cost half and lose spread
    even where v is exact: 16 of them make a Gaussian of spread 1 into one of 0.92, and one of spread 0.1 into 0.075,
    by which a song fades as it feeds on itself. 8 by the midpoint rule keep 1.000 and 0.097.

    Args:
      width, size: D and F.
      dtype: of the computation; noise, times and the sum of steps are float32.
      layers, hidden: of the network, see `velocity.Velocity`.
      draws: R, how many pairs of time and noise a position is trained with at once. The decoder goes forward once for
        all of them.
      steps: from noise to a latent.
    """

    exact = False
    times = 1

    def __init__(self, width: int, size: int, dtype: str = "float32", *, layers: int = 6, hidden: int = 512,
                 draws: int = 4, steps: int = 8, rngs: nnx.Rngs):
        self.size, self.draws, self.steps = size, draws, steps
        self.network = Velocity(width, size, dtype, times=self.times, layers=layers, hidden=hidden, rngs=rngs)

    def velocity(self, states: Array, x: Array, t: Array) -> Array:
        """v(t, x) float32 [..., F] of states [..., D], x [..., F] and t [...]."""
        return self.network(states, x, t)

    def move(self, states: Array, x: Array, s: Array, t: Array) -> Array:
        """Where x [..., F] at times s [...] stands at times t, float32 [..., F]."""
        half = (t - s) / 2
        middle = x + half[..., None] * self.velocity(states, x, s)
        return x + (t - s)[..., None] * self.velocity(states, middle, s + half)

    def loss(self, states: Array, targets: Array, key: Array) -> tuple[Array, dict[str, Array]]:
        """See `head.Head`."""
        times, noise = self._drawn(targets, key)
        return self._squares(states, targets, times, noise).mean(-1), {}

    def _drawn(self, targets: Array, key: Array) -> tuple[Array, Array]:
        """Times [N, R] and noise [N, R, F]."""
        of_times, of_noise = jax.random.split(key)
        times = jax.nn.sigmoid(0.4 + jax.random.normal(of_times, (len(targets), self.draws)))
        return times, jax.random.normal(of_noise, (*times.shape, self.size))

    def _squares(self, states: Array, targets: Array, times: Array, noise: Array) -> Array:
        """The mean square of what is wrong with the velocity at times [N, R], float32 [N, R]."""
        velocity = self.velocity(states[:, None], _between(targets, noise, times), times)
        return ((velocity - (targets[:, None] - noise)) ** 2).mean(-1)

    def sample(self, states: Array, keys: Array, temperature: Array | float = 1.0, *, steps: int | None = None
               ) -> Array:
        """See `head.Head`."""
        steps = self.steps if steps is None else steps

        def step(i: Array, x: Array) -> Array:
            return self.move(states, x, i / steps, (i + 1) / steps)

        return jax.lax.fori_loop(0, steps, step, jnp.sqrt(temperature) * normals(keys, self.size))


class Distilled(Flow):
    """A flow that learns its own steps, by Lagrangian self-distillation (Boffi et al. 2025, "How to build a consistency
    model: learning flow maps via self-distillation"); see `head.Head`.

    Its velocity v(s, t, x) is the mean one from s to t: x_s + (t - s) v(s, t, x_s) is where x_s stands at t. With s = t
    it is that of a flow, and learns as that does. For s < t the end point must move, as t grows, at the velocity that v
    has there: d/dt [x_s + (t - s) v(s, t, x_s)] = v(t, t, end point), the right side taken as it is. The parts of the
    loss weigh 0.75 and 0.25, and a learned logarithm w(s, t) balances the times of both: exp(-w) square + w, as in EDM2
    (Karras et al. 2024).

    A quarter of the draws, at least one, is also used for distillation, with times of its own: two uniform ones.

    Args:
      steps: of sampling; one to four are enough.
      others: as of `Flow`.
    """

    times = 2

    def __init__(self, width: int, size: int, dtype: str = "float32", *, layers: int = 6, hidden: int = 512,
                 draws: int = 4, steps: int = 4, rngs: nnx.Rngs):
        super().__init__(width, size, dtype, layers=layers, hidden=hidden, draws=draws, steps=steps, rngs=rngs)
        self.log_weight = linear(2 * TIME_FEATURES, 1, "float32", rngs, zero=True)

    def velocity(self, states: Array, x: Array, t: Array) -> Array:
        """As of `Flow`: v(t, t, x)."""
        return self.network(states, x, t, t)

    def move(self, states: Array, x: Array, s: Array, t: Array) -> Array:
        """As of `Flow`, by the mean velocity in one step."""
        return x + (t - s)[..., None] * self.network(states, x, s, t)

    def loss(self, states: Array, targets: Array, key: Array) -> tuple[Array, dict[str, Array]]:
        """See `head.Head`. The parts are the squares "flow_matching" and "distillation", before any weight."""
        of_flow, of_ends = jax.random.split(key)
        times, noise = self._drawn(targets, of_flow)
        flow_matching = self._squares(states, targets, times, noise)
        noise = noise[:, :max(self.draws // 4, 1)]
        s, t = jnp.sort(jax.random.uniform(of_ends, (2, *noise.shape[:2])), axis=0)
        distillation = self._distillation(states, targets, s, t, noise)
        loss = (0.75 * self._weighted(flow_matching, times, times).mean(-1)
                + 0.25 * self._weighted(distillation, s, t).mean(-1))
        return loss, {"flow_matching": flow_matching.mean(-1), "distillation": distillation.mean(-1)}

    def _distillation(self, states: Array, targets: Array, s: Array, t: Array, noise: Array) -> Array:
        """The mean square of what is wrong with the movement of the end point, float32 [N, R], at s <= t [N, R]."""
        states, x = states[:, None], _between(targets, noise, s)
        end, movement = jax.jvp(lambda t: self.move(states, x, s, t), (t,), (jnp.ones_like(t),))
        return ((movement - jax.lax.stop_gradient(self.velocity(states, end, t))) ** 2).mean(-1)

    def _weighted(self, squares: Array, s: Array, t: Array) -> Array:
        features = jnp.concatenate([time_features(s), time_features(t)], axis=-1)
        w = self.log_weight(features * features.shape[-1] ** -0.5)[..., 0]
        return jnp.exp(-w) * squares + w


def _between(targets: Array, noise: Array, times: Array) -> Array:
    """x_t float32 [N, R, F], for targets [N, F], noise [N, R, F] and times [N, R]."""
    times = times[..., None]
    return times * targets[:, None] + (1 - times) * noise
