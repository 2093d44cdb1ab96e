"""A model trains with these kernels as with PyTorch's own attention."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

if not torch.cuda.is_available():
    pytest.skip("needs a GPU: torch.cuda.is_available() is False", allow_module_level=True)

# torch warns of its own parts while it compiles, of others in every version.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

STEPS, TOKENS, SEQUENCES, WORDS = 200, 1024, 8, 32
_WINDOW = 10  # steps that a point of a loss curve is the mean of


def _model(transformers, device, attention, seed):
    config = transformers.LlamaConfig(
        vocab_size=WORDS,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_cache=False,
    )
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return model.to(device).train()


def _batch(step, device):
    """Packed sequences, each of random words of four, and the word that follows each token.

    The mean of what a token sees tells the four words: the loss falls at once, with any seed.
    """
    generator = torch.Generator().manual_seed(step)
    cuts = torch.randperm(TOKENS - 1, generator=generator)[: SEQUENCES - 1].sort().values + 1
    starts = torch.tensor([0, *cuts.tolist(), TOKENS])
    lengths = starts.diff()
    first = starts[:-1].repeat_interleave(lengths)
    words = torch.stack([torch.randperm(WORDS, generator=generator)[:4] for _ in range(SEQUENCES)])
    choices = torch.randint(4, (TOKENS, 1), generator=generator)
    tokens = words.repeat_interleave(lengths, 0).gather(1, choices)[:, 0]
    packed = {
        "input_ids": tokens[None],
        "position_ids": (torch.arange(TOKENS) - first)[None],
        "cu_seq_lens_q": starts.int(),
        "cu_seq_lens_k": starts.int(),
    }
    longest = {"max_length_q": TOKENS, "max_length_k": TOKENS}
    return {name: tensor.to(device) for name, tensor in packed.items()} | longest, tokens.roll(-1).to(device)


def _loss(model, step, device, *, mixed=True):
    """In bfloat16 with weights in float32, as models are trained; without ``mixed`` all in float32."""
    inputs, wanted = _batch(step, device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed):
        logits = model(**inputs).logits[0]
    return cross_entropy(logits.float(), wanted)


def _curve(model, forward, device):
    """Train, and return the means of the loss over windows of steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for step in range(STEPS):
        loss = _loss(forward, step, device)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses).view(-1, _WINDOW).mean(1).cpu()


@pytest.fixture(scope="module")
def references(transformers, device):
    """Loss curves of PyTorch's attention from two seeds."""
    models = [_model(transformers, device, "sdpa", seed) for seed in (0, 1)]
    return [_curve(model, model, device) for model in models]


@pytest.mark.parametrize("compiled", [False, True])
def test_the_loss_falls_as_with_pytorchs_attention(transformers, device, references, compiled):
    """Its curve lies as near to that of the same seed as the curve of another seed does."""
    torch._dynamo.reset()
    model = _model(transformers, device, "flash_attention_3", 0)
    found = _curve(model, torch.compile(model) if compiled else model, device)
    same, other = references
    assert same[-1] < 0.8 * same[0]
    assert (found - same).abs().mean() <= (other - same).abs().mean()
    assert (found - same).abs().max() <= (other - same).abs().max()


def test_the_gradient_of_each_weight_is_as_exact_as_that_of_pytorchs_attention(transformers, device):
    attentions = ("sdpa", "flash_attention_3", "sdpa")
    plain, ours, exact = (_model(transformers, device, name, 0) for name in attentions)
    for model in (plain, ours, exact):
        _loss(model, 0, device, mixed=model is not exact).backward()
    wanted = {name: weight.grad for name, weight in exact.named_parameters()}
    theirs, found = (_errors(model, wanted) for model in (plain, ours))
    worse = {name: (found[name], theirs[name]) for name in wanted if found[name] > 2 * theirs[name] + 0.01}
    assert worse == {}


def _errors(model, wanted):
    """Return the error of the gradient of each weight, as a fraction of it."""
    weights = dict(model.named_parameters())
    return {name: float((weights[name].grad - right).norm() / right.norm()) for name, right in wanted.items()}
