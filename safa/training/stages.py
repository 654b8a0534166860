"""The two stages as the loop sees them: networks, optimisers, and one optimiser step.

``head`` trains the 3DMM alone on single frames, ``full`` trains everything on frame pairs (docs/model.md,
section 7).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam

from safa.checkpoint.native import TrainState, read_model_weights
from safa.config.training import FullStage, HeadStage, TrainConfig
from safa.data.sampler import FrameBatch, PairBatch
from safa.files import shown
from safa.head import load_head_assets
from safa.head.assets import HeadAssets
from safa.models.discriminator import MultiScaleDiscriminator
from safa.models.safa import Safa
from safa.models.tdmm import Tdmm
from safa.training.activation_checkpoints import checkpoint_activations
from safa.training.context import TrainContext
from safa.training.optim import EMA, clip_gradients, make_adam
from safa.training.steps import (
    Criteria,
    Losses,
    Networks,
    StepOutputs,
    discriminator_step,
    generator_step,
    head_step,
)
from safa.weights import load_weights, strip_prefix

B = TypeVar("B", FrameBatch, PairBatch)
M = TypeVar("M", bound=nn.Module)
Terms = dict[str, Tensor]  # detached, weighted loss terms by name


class NotFiniteError(Exception):
    """A loss is NaN or infinite; no weight was changed by this step. Raised on all ranks.

    ``details`` names the terms, and the clips of the batch.
    """

    def __init__(self, details: str) -> None:
        super().__init__(details)
        self.details = details


@dataclass(frozen=True)
class _Pass:
    """What the check of a step needs to know of one backward pass."""

    total: Tensor  # scalar, detached
    terms: Terms
    clip_ids: Sequence[str]


class Stage(ABC, Generic[B]):
    """Networks and optimisers of a stage. ``model`` is what inference will use."""

    model: nn.Module
    networks: dict[str, nn.Module]  # bare, by name
    optimisers: dict[str, Adam]
    ema: EMA | None = None

    def __init__(self, config: TrainConfig, context: TrainContext) -> None:
        self._settings, self._context = config.step, context
        batches = config.data.batches_of(context.world_size)
        # What a mean over this worker's samples counts in the mean over the workers.
        self._weight = batches[context.rank] * len(batches) / sum(batches)
        self._passes: list[_Pass] = []  # of the step at hand
        self.memory_format = torch.channels_last if config.step.channels_last else torch.contiguous_format

    @abstractmethod
    def step(self, batches: Sequence[B], rng: torch.Generator) -> Terms:
        """One optimiser step over the batches; this worker's share of the mean of each loss term.

        Raises:
            NotFiniteError: before any weight has changed.
        """

    @abstractmethod
    def train_mode(self) -> None:
        """Put every layer in the mode it trains in."""

    @property
    def state(self) -> TrainState:
        """Everything that a checkpoint keeps."""
        return TrainState(self.networks, self.optimisers, self.ema.model if self.ema else None)

    @property
    def inference_model(self) -> nn.Module:
        """The EMA where there is one, else the trained model."""
        return self.ema.model if self.ema else self.model

    def _in_memory_format(self, network: M) -> M:
        return network.to(memory_format=self.memory_format)  # type: ignore[call-overload, no-any-return]

    def _wrap(self, network: nn.Module, *, all_parameters_used: bool = True) -> nn.Module:
        """The network as the steps call it. It is compiled in place, so names and states stay the same.

        Each network is compiled on its own, below its wrapper: gradients are then averaged in parts while
        the rest of the backward pass runs. What lies between the networks (renderer, losses) stays eager.
        """
        if self._settings.activation_checkpoints:
            checkpoint_activations(network)
        if self._settings.compile:
            network.compile(dynamic=False)
        return self._context.wrap(network, all_parameters_used=all_parameters_used)

    def _autocast(self) -> AbstractContextManager[object]:
        device = self._context.device.type
        return torch.autocast(device, torch.bfloat16) if self._settings.bf16 else nullcontext()

    def _accumulate(
        self, batches: Sequence[B], wrapped: Sequence[nn.Module], losses_of: Callable[[int, B], Losses]
    ) -> Terms:
        """Backward through every batch; gradients are averaged over the group in the last pass only."""
        sums: Terms = {}
        for i, batch in enumerate(batches):
            with ExitStack() as stack:
                if i + 1 < len(batches):
                    for network in wrapped:
                        if isinstance(network, DistributedDataParallel):
                            stack.enter_context(network.no_sync())
                with self._autocast():
                    losses = losses_of(i, batch)
                terms = {name: value.detach() for name, value in losses.terms.items()}
                self._passes.append(_Pass(losses.total.detach(), terms, batch.clip_ids))
                (losses.total * self._weight / len(batches)).backward()  # type: ignore[no-untyped-call]
            for name, value in terms.items():
                share = value * self._weight / len(batches)
                sums[name] = sums.get(name, torch.zeros_like(value)) + share
        return sums

    def _refuse_not_finite(self) -> None:
        """Stop all workers together at a loss that is not finite; the error names the clips.

        One look for all passes of the step, and the only time that the host waits for the device in it.
        """
        not_finite = 1.0 - torch.stack([each.total for each in self._passes]).isfinite().float()
        if self._context.sum(not_finite).sum().item() == 0:
            return
        details = ""
        if not_finite.any():
            first = self._passes[int(not_finite.argmax())]  # what follows from it says nothing more
            terms = ", ".join(f"{name} {float(value):.4g}" for name, value in first.terms.items())
            details = f"{terms}; clips {', '.join(first.clip_ids)}"
        raise NotFiniteError("; ".join(text for text in self._context.gather(details) if text))

    def _update(self) -> None:
        """Step the optimisers, once all losses are known to be finite."""
        self._refuse_not_finite()
        for name, adam in self.optimisers.items():
            clip_gradients(self.networks[name], self._settings.clip_norm)
            adam.step()

    def _clear_gradients(self) -> None:
        self._passes.clear()
        for adam in self.optimisers.values():
            adam.zero_grad(set_to_none=True)


class HeadTraining(Stage[FrameBatch]):
    """Stage 1: the 3DMM alone, on single frames."""

    model: Tdmm

    def __init__(self, config: TrainConfig, stage: HeadStage, context: TrainContext) -> None:
        super().__init__(config, context)
        self._losses = stage.losses
        model = Tdmm(config.model, load_head_assets(config.model.head))
        if config.model.head.encoder_weights is not None:
            model.load_encoder_weights(config.model.head.encoder_weights)
        self.model = self._in_memory_format(model)
        self._tdmm = self._wrap(self.model)
        self.networks = {"tdmm": self.model}
        self.optimisers = {"tdmm": make_adam(self.model, stage.lr, stage.betas, config.step)}

    def train_mode(self) -> None:
        """See ``Stage``: BatchNorm learns its statistics in this stage."""
        self.model.train()

    def step(self, batches: Sequence[FrameBatch], rng: torch.Generator) -> Terms:
        """See ``Stage``. Nothing is drawn at random but dropout."""
        del rng
        self._clear_gradients()
        terms = self._accumulate(
            batches, [self._tdmm], lambda _, batch: head_step(self._tdmm, batch, self._losses)
        )
        self._update()
        return terms


class FullTraining(Stage[PairBatch]):
    """Stage 2: all networks, on frame pairs."""

    model: Safa

    def __init__(self, config: TrainConfig, stage: FullStage, context: TrainContext) -> None:
        super().__init__(config, context)
        self._stage = stage
        model = _first_model(config, stage)
        self.model = self._in_memory_format(model)
        self.networks = {
            "kp_detector": model.kp_detector,
            "tdmm": model.tdmm,
            "generator": model.generator,
            "discriminator": self._in_memory_format(MultiScaleDiscriminator(config.model)),
        }
        # If no loss compares the prediction, the generator gets no gradient at all.
        weights = stage.losses.weights
        scored = weights.perceptual > 0 or weights.needs_discriminator
        wrapped = {
            name: self._wrap(network, all_parameters_used=scored) for name, network in self.networks.items()
        }
        self._wrapped = Networks(**wrapped)
        self._criteria = Criteria(stage.losses, config.model).to(context.device)
        if config.step.activation_checkpoints:
            checkpoint_activations(self._criteria)
        self.optimisers = {
            name: make_adam(network, getattr(stage.lr, name), stage.betas, config.step)
            for name, network in self.networks.items()
        }
        self.ema = EMA(self.model, stage.ema_decay) if stage.ema_decay is not None else None

    def train_mode(self) -> None:
        """See ``Stage``: the 3DMM encoder keeps the BatchNorm statistics of stage 1."""
        for network in self.networks.values():
            network.train()
        self.model.tdmm.keep_encoder_bn_frozen()
        if not self._stage.encoder_dropout:
            for module in self.model.tdmm.modules():
                if isinstance(module, nn.Dropout):
                    module.eval()

    def step(self, batches: Sequence[PairBatch], rng: torch.Generator) -> Terms:
        """See ``Stage``. The discriminator learns from the detached frames that the generator step made.

        Both backward passes come before any update. That is the published order (generator, then
        discriminator) in effect, since neither update enters the other's loss, and a loss that is not finite
        leaves all weights alone.
        """
        self._clear_gradients()
        outputs: list[StepOutputs] = []

        def generator_losses(_: int, batch: PairBatch) -> Losses:
            result = generator_step(self._wrapped, batch, self._criteria, rng)
            outputs.append(result.outputs)
            return result.losses

        def discriminator_losses(i: int, _: PairBatch) -> Losses:
            return discriminator_step(self._wrapped, outputs[i], self._criteria)

        learners = [self._wrapped.generator, self._wrapped.kp_detector, self._wrapped.tdmm]
        terms = self._accumulate(batches, learners, generator_losses)
        if self._stage.losses.weights.discriminator_gan > 0:
            terms |= self._accumulate(batches, [self._wrapped.discriminator], discriminator_losses)
        self._update()
        return terms


def _first_model(config: TrainConfig, stage: FullStage) -> Safa:
    """The model that training starts from. ``stage.init`` holds all of it, or only its 3DMM."""
    head = config.model.head
    if stage.init is None:
        model = Safa(config.model, load_head_assets(head))
        if head.encoder_weights is not None:
            model.tdmm.load_encoder_weights(head.encoder_weights)
        return model
    weights, info = read_model_weights(stage.init)
    tdmm_weights = strip_prefix(weights, "tdmm.")
    # Without a file of its own, this stage has the very head that the weights were trained with.
    assets = load_head_assets(head) if head.assets else HeadAssets.from_state_dict(tdmm_weights)
    model = Safa(config.model, assets)
    if info.stage == "full":
        load_weights(model, weights, shown(stage.init))
    else:
        load_weights(model.tdmm, tdmm_weights, shown(stage.init))
    return model


def make_stage(config: TrainConfig, context: TrainContext) -> HeadTraining | FullTraining:
    """The stage that the settings name, on the context's device."""
    if isinstance(config.stage, HeadStage):
        return HeadTraining(config, config.stage, context)
    return FullTraining(config, config.stage, context)
