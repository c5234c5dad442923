"""DeepSeek-V3's multi-token prediction layer (DeepSeek-V3 technical report, section 2.2).

From the main model's hidden state at position i and the embedding of token i+1 it predicts token
i+2. Parameter names are those of `model.layers.<num_hidden_layers>` in DeepSeek's checkpoints; the
embedding and the head are the main model's, stored a second time.
"""

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_causal_mask
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as deepseek


class MtpLayer(deepseek.DeepseekV3DecoderLayer):
    """A decoder layer with DeepSeek's `enorm`, `hnorm`, `eh_proj`, `shared_head.norm` around it."""

    def __init__(self, config: deepseek.DeepseekV3Config) -> None:
        super().__init__(config, config.num_hidden_layers)
        size, eps = config.hidden_size, config.rms_norm_eps
        self.config = config
        self.enorm = deepseek.DeepseekV3RMSNorm(size, eps)
        self.hnorm = deepseek.DeepseekV3RMSNorm(size, eps)
        self.eh_proj = nn.Linear(2 * size, size, bias=False)
        self.shared_head = nn.ModuleDict({"norm": deepseek.DeepseekV3RMSNorm(size, eps)})

    def initialize(self) -> None:
        """Draw the weights as the main model's are; norms keep their ones, the bias its zeros."""
        for name, parameter in self.named_parameters():
            if "norm" not in name:
                nn.init.normal_(parameter, std=self.config.initializer_range)

    def predict(
        self, main: deepseek.DeepseekV3ForCausalLM, hidden: Tensor, tokens: Tensor
    ) -> Tensor:
        """Logits [batch, T-1, vocab]; those at index i are for token i+2.

        hidden [batch, T, size] is what leaves the main model's last norm; tokens [batch, T].
        """
        embedded = main.model.embed_tokens(tokens[:, 1:])
        joined = torch.cat([self.enorm(embedded), self.hnorm(hidden[:, :-1])], dim=-1)
        states = self.eh_proj(joined)
        positions = torch.arange(states.shape[1], device=states.device)[None]
        # its fourth argument, the cache, has two names: transformers 5.24 renamed it
        mask = create_causal_mask(self.config, states, None, None, position_ids=positions)
        rope = main.model.rotary_emb(states, positions)
        states = self(states, attention_mask=mask, position_ids=positions, position_embeddings=rope)
        return main.lm_head(self.shared_head["norm"](states))


def checkpoint_weights(main: deepseek.DeepseekV3ForCausalLM, mtp: MtpLayer) -> dict[str, Tensor]:
    """State dict of both; the MTP layer, with copies of embedding and head, comes last."""
    weights = dict(main.state_dict())
    prefix = f"model.layers.{main.config.num_hidden_layers}."
    weights |= {prefix + name: t for name, t in mtp.state_dict().items()}
    weights[prefix + "embed_tokens.weight"] = weights["model.embed_tokens.weight"].clone()
    weights[prefix + "shared_head.head.weight"] = weights["lm_head.weight"].clone()
    return weights
