"""CLIP's text tower with learned words around each class: the gradient passes the tower, the tower stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipelines.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

PREFIX, POSTFIX = 10, 10  # learned tokens before and after the class's words [code] nwpu-zxr/VadCLIP


class PromptTower:
    """[SOS] [prefix learned] [class words] [postfix learned] [EOS], the rest learned too: (77, D) -> (Y, D') per class.

    Learned row i stands at position i, shared by all classes; the vector is read at the moved EOS [code]. It is no
    torch module, so that the tower's weights never join a method's own.

    Args:
        model: a CLIPTextModelWithProjection; it is frozen here.
        tokenizer: its tokenizer.
        words: one text a class, in the dataset's order.

    Raises:
        UsageError: words that leave no room for the learned tokens.
    """

    def __init__(
        self, model: Any, tokenizer: Any, words: Sequence[str], *, prefix: int = PREFIX, postfix: int = POSTFIX
    ) -> None:
        import torch

        self.model = model.eval().requires_grad_(False)
        self.rows = int(model.config.max_position_embeddings)
        self.width = int(model.config.hidden_size)
        self.ids = torch.zeros(len(words), self.rows, dtype=torch.int64)
        self.own = torch.zeros(len(words), self.rows, dtype=torch.bool)  # where the class's own tokens stand
        for row, text in enumerate(words):
            tokens = [int(n) for n in tokenizer(text)["input_ids"]]
            if len(tokens) + prefix + postfix > self.rows:
                raise UsageError(
                    f"the prompt {text[:60]!r} has {len(tokens) - 2} tokens; {self.rows - 2 - prefix - postfix} fit "
                    f"beside {prefix + postfix} learned ones"
                )
            at = [0, *range(prefix + 1, prefix + len(tokens) - 1), prefix + len(tokens) - 1 + postfix]
            self.ids[row, at] = torch.tensor(tokens)
            self.own[row, at] = True

    def __call__(self, context: Tensor) -> Tensor:
        """Learned rows (77, D) -> class vectors (Y, D'), not normalised, with the gradient to `context`."""
        import torch

        self.model.to(context.device)
        own = self.own.to(context.device).unsqueeze(-1)

        def place(module: Any, given: Any, embedded: Tensor) -> Tensor:
            return torch.where(own, embedded, context.to(embedded.dtype))

        # The library takes token numbers only, so the learned rows are put where the embedding comes out.
        handle = self.model.get_input_embeddings().register_forward_hook(place)
        try:
            embedded: Tensor = self.model(input_ids=self.ids.to(context.device)).text_embeds
        finally:
            handle.remove()
        return embedded
