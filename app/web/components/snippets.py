"""Python code for the actions of pages; it runs with `sae_core` alone."""

from app.queries.edits import EditView
from app.queries.saes import SaeDetail
from app.services.generation import Wish

_STEERING = """\
from sae_core import HookPoint, load_model, load_sae
from sae_core.interventions import Intervention, Sampling, Site, generate_side_by_side

model = load_model({source!r})
sae = load_sae({artifact!r})  # under SEESAE_ARTIFACTS
change = Intervention({op!r}, {value!r}, feature={feature}, positions={positions!r})
site = Site(HookPoint.parse({hook!r}), [change], sae{write})
sampling = Sampling(max_new_tokens={tokens}, temperature={temperature!r}, seed={seed})
prompt = model.tokenize({text!r})
written = {{"default": [], "changed": []}}
for event in generate_side_by_side(model, prompt, [site], sampling):
    if hasattr(event, "token_id"):
        written[event.side].append(event.token_id)
print({{side: model.decode(token_ids) for side, token_ids in written.items()}})
"""


def steering_snippet(sae: SaeDetail, wish: Wish) -> str:
    """Return the code that generates what the steering page shows."""
    ((_, change),) = wish.interventions
    return _STEERING.format(
        source=sae.model.source,
        artifact=sae.artifact,
        op=change.op,
        value=change.value,
        feature=change.feature,
        positions=change.positions,
        hook=sae.hook,
        write="" if sae.hook_out is None else f", write=HookPoint.parse({sae.hook_out!r})",
        tokens=wish.max_new_tokens,
        temperature=wish.temperature,
        seed=wish.seed,
        text=wish.text,
    )


_EDIT = """\
import torch
from sae_core import apply_edits, load_model

# or any transformers model with the same weights
model = load_model({source!r})
prompt = torch.tensor([model.tokenize({text!r})])
with apply_edits(model, "{name}.json"):  # the downloaded file
    written = model.hf_model.generate(prompt, max_new_tokens=30, do_sample=False)
print(model.decode(written[0].tolist()))
"""


def edit_snippet(edit: EditView) -> str:
    """Return the code that applies an edit's file to a plain model."""
    text = edit.prompts[0]["text"] if edit.prompts else "The capital of France is"
    return _EDIT.format(source=edit.model.source, text=text, name=edit.name)
