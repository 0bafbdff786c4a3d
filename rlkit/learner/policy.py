"""The model as the learner calls it: a Batch in, log-probs and entropies of its completion tokens out.

Being a module of its own, it is what DDP and FSDP wrap: their hooks see one forward per micro-batch.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlkit.batch import Batch
from rlkit.errors import ModelError

from .attention import NAME, register
from .compiled import Unread, compile_layers
from .logprobs import token_stats
from .look import Distributions, Question, distributions

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Policy(nn.Module):
    """model: a causal language model of transformers;  temperature: the sampler's;  chunk: tokens whose logits exist at one time"""

    def __init__(
        self, model: "PreTrainedModel", temperature: float, chunk: int, autocast: bool, compiled: bool = False
    ) -> None:
        super().__init__()
        _check_head(model)
        register()
        if compiled:
            compile_layers(model)
        self.model = model
        self.own_attention = model.config._attn_implementation
        self.temperature, self.chunk, self.autocast = temperature, chunk, autocast

    def forward(
        self, batch: Batch, entropy_grad: bool = False, question: Question | None = None
    ) -> tuple[Tensor, Tensor] | Distributions:
        """Log-probs and entropies, two [B, T] in nats, float32, 0 outside the mask. The entropy's gradient only on demand.

        question: more of the distributions instead, row after row of the mask (rlkit.learner.look); without gradient
        """
        feed = batch.feed
        model: Any = self.model
        packed = {"rlkit_runs": Unread(feed.runs)} if feed.runs else {}
        # The layers ask for it at every call.
        model.config._attn_implementation = NAME if feed.runs else self.own_attention
        with torch.autocast(feed.ids_RL.device.type, torch.bfloat16, enabled=self.autocast):
            body = model.base_model(
                input_ids=feed.ids_RL,
                attention_mask=feed.attention_RL,
                position_ids=feed.positions_RL,
                use_cache=False,
                **packed,
            )
            hidden_NH = body.last_hidden_state.flatten(0, 1)[feed.predict_N]
            head = model.get_output_embeddings()
            if question is not None:
                return distributions(hidden_NH, head, batch.ids_BT[batch.mask_BT], self.temperature, question)
            zeros_BT = torch.zeros_like(batch.weight_BT)
            if not batch.rows:  # nothing to predict, but every weight takes part: DDP and FSDP wait for it
                none_N = head(hidden_NH).float().sum(-1)
                return zeros_BT.masked_scatter(batch.mask_BT, none_N), zeros_BT
            stats = token_stats(
                hidden_NH,
                head,
                batch.ids_BT[batch.mask_BT],
                self.temperature,
                self.chunk,
                entropy_grad=entropy_grad,
            )
        return (
            zeros_BT.masked_scatter(batch.mask_BT, stats.logp_N),
            zeros_BT.masked_scatter(batch.mask_BT, stats.entropy_N),
        )


def _check_head(model: "PreTrainedModel") -> None:
    """Refuse models whose logits are more than a linear head: their log-probs would be wrong without a word."""
    text = model.config.get_text_config()
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(text, name, None):
            raise ModelError(
                f"{type(model).__name__} reshapes its logits ({name} = {getattr(text, name)}), which rlkit's log-probs do not "
                "follow; train a model of the Qwen or Llama families"
            )
