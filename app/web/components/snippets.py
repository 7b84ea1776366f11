"""Python code for the actions of pages; it runs with `sae_core` alone, or with OpenAI's client."""

from collections.abc import Mapping

from app.paths import without_folder
from app.queries.edits import EditView
from app.queries.saes import SaeDetail
from app.services.generation import Wish
from app.services.inference_messages import InterventionChoice, TokenPositions

_STEERING = """\
{imports}
{load_model}
{saes}sites = [
{sites}
]
sampling = Sampling(max_new_tokens={tokens}, temperature={temperature!r}, seed={seed}{stop})
prompt = model.tokenize({text}{bos})
written = {{"default": [], "changed": []}}
for event in generate_side_by_side(model, prompt, sites, sampling):
    if hasattr(event, "token_id"):
        written[event.side].append(event.token_id)
print({{side: model.decode(token_ids) for side, token_ids in written.items()}})
"""

_DIFF_MEAN = """

def mean_activation(texts):
    total, count = 0, 0
    for text in texts:
        token_ids = torch.tensor(model.tokenize(text{bos}))
        counted = ~torch.isin(token_ids, torch.tensor(sorted(model.special_token_ids | {{model.bos_token_id}})))
        activations = model.activations(token_ids[None], HookPoint.parse({hook!r}))[0][counted]
        total, count = total + activations.sum(0), count + len(activations)
    return total / count


diff_mean = mean_activation({positive!r}) - mean_activation({negative!r})
diff_mean /= diff_mean.norm()
"""


def steering_snippet(sae: SaeDetail, wish: Wish, saes: Mapping[str | None, SaeDetail]) -> str:
    """Return the code that generates what the steering page shows.

    Args:
        sae: the page's own.
        saes: those of the interventions, by the slug that names them.
    """
    own = list({detail.id: detail for detail in (sae, *saes.values())}.values())
    names = {detail.id: "sae" if detail.id == sae.id else f"sae_{place}" for place, detail in enumerate(own)}
    choices = [choice.direction for _, choice in wish.interventions if choice.direction is not None]
    bos = f", prepend_bos={names[sae.id]}.prepend_bos"
    loaded = "".join(f"{names[one.id]} = load_sae({one.artifact!r})  # under SEESAE_ARTIFACTS\n" for one in own)
    for choice in choices:
        if choice.positive is not None:
            hook = sae.hook_out or sae.hook
            loaded += _DIFF_MEAN.format(bos=bos, hook=hook, positive=choice.positive, negative=choice.negative)
        if choice.vector is not None:
            loaded += '(vector,) = load_file("direction.safetensors").values()  # the file that was uploaded\n'
    imports = [
        *(["import torch"] if any(choice.positive is not None for choice in choices) else []),
        *(["from safetensors.torch import load_file"] if any(choice.vector for choice in choices) else []),
        "from sae_core import HookPoint, load_model, load_sae",
        "from sae_core.interventions import Intervention, Sampling, Site, generate_side_by_side",
        "",
    ]
    sites = []
    for detail in own:
        changes = [
            _intervention(names, sae, choice) for slug, choice in wish.interventions if saes[slug].id == detail.id
        ]
        if changes:
            write = "" if detail.hook_out is None else f", write=HookPoint.parse({detail.hook_out!r})"
            sites.append(
                f"    Site(HookPoint.parse({detail.hook!r}), [{', '.join(changes)}], {names[detail.id]}{write}),"
            )
    text = repr(wish.text)
    if wish.chat is not None:
        text = f"model.render_chat({[message.model_dump() for message in wish.chat]!r}).text"
    return _STEERING.format(
        imports="\n".join(imports),
        load_model=_load_model(sae.model.source),
        saes=loaded,
        sites="\n".join(sites),
        tokens=wish.max_new_tokens,
        temperature=wish.temperature,
        seed=wish.seed,
        stop=f", stop={tuple(wish.stop)!r}" if wish.stop else "",
        text=text,
        bos=bos,
    )


def _load_model(source: str) -> str:
    """Return the line that loads a model; folders of the site's machine are not for all to see."""
    name = without_folder(source)
    where = "" if name == source else "  # a file or folder of the site's machine: give its path"
    return f"model = load_model({name!r}){where}"


def _intervention(names: Mapping[int, str], sae: SaeDetail, choice: InterventionChoice) -> str:
    subject = f"feature={choice.feature}"
    if choice.direction is not None:
        if choice.direction.feature is not None:
            subject = f"direction={names[sae.id]}.W_dec[{choice.direction.feature}]"
        else:
            subject = "direction=diff_mean" if choice.direction.positive is not None else "direction=vector"
    positions: object = choice.positions
    if isinstance(choice.positions, TokenPositions):
        positions = frozenset(choice.positions.tokens)
    special = ", special_tokens=True" if choice.special_tokens else ""
    return f"Intervention({choice.op!r}, {choice.value!r}, {subject}, positions={positions!r}{special})"


_EDIT = """\
import torch
from sae_core import apply_edits, load_model

# or any transformers model with the same weights
{load_model}
prompt = torch.tensor([model.tokenize({text!r})])
with apply_edits(model, "{name}.json"):  # the downloaded file
    written = model.hf_model.generate(prompt, max_new_tokens=30, do_sample=False)
print(model.decode(written[0].tolist()))
"""


def edit_snippet(edit: EditView) -> str:
    """Return the code that applies an edit's file to a plain model."""
    text = edit.prompts[0]["text"] if edit.prompts else "The capital of France is"
    return _EDIT.format(load_model=_load_model(edit.model.source), text=text, name=edit.name)


_ENDPOINT = """\
from openai import OpenAI

client = OpenAI(base_url={base_url!r}, api_key="none")  # with accounts: a token of yours
stream = client.completions.create(
    model={model!r},
    prompt="The capital of France is",
    max_tokens=30,
    stream=True,
    extra_body={{"seesae": {{"monitors": [{monitor!r}], "on_alert": "alert"}}}},  # or "stop", or {{"edit": name}}
)
for chunk in stream:
    print(chunk.choices[0].text, end="")
    for alert in getattr(chunk, "seesae", {{}}).get("alerts", []):
        print(f"[{{alert['monitor']}}: {{alert['score']:.3g}} at {{alert['token']!r}}]")
"""


def endpoint_snippet(site: str, model: str, monitor: str) -> str:
    """Return the code with which OpenAI's client lets a monitor watch what a model writes.

    Args:
        site: its address, without a slash at its end.
        model: name of the model.
        monitor: name of the monitor.
    """
    return _ENDPOINT.format(base_url=f"{site}/v1", model=model, monitor=monitor)
