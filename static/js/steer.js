// Steering as it goes: the form is sent with fetch, and the texts grow token by token, or the sweep row by row. The
// server writes all HTML.

const form = document.getElementById("steer-form");
const result = document.getElementById("result");
const stop = form.querySelector("[data-stop]");
const status = document.getElementById("status");
let running = null; // the request under way

// htmx starts what the HTML needs: charts, and a form that asks again while a model is being loaded.
const show = (html) => htmx.swap(result, html, { swapStyle: "innerHTML" });

const take = ({ event, data }) => {
  if (event === "start") result.innerHTML = data;
  else if (event === "done") show(data);
  else if (event === "failed") result.insertAdjacentHTML("afterbegin", data);
  else {
    result.querySelector(`[data-side="${event}"]`)?.insertAdjacentHTML("beforeend", data);
    const progress = result.querySelector("[data-progress]");
    if (progress) progress.value += 1;
  }
};

// Blocks of an event stream: `event: name`, lines of `data:`.
const parse = (block) => {
  const lines = block.split("\n");
  const value = (name) => lines.filter((line) => line.startsWith(`${name}: `)).map((line) => line.slice(name.length + 2)).join("\n");
  return { event: value("event"), data: value("data") };
};

const read = async (body) => {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) take(parse(block));
  }
};

const busy = (controller) => {
  running = controller;
  stop.hidden = !controller;
  status.textContent = controller ? form.dataset.busy : "";
};

const send = async (submitter) => {
  running?.abort();
  const controller = new AbortController();
  busy(controller);
  try {
    const answer = await fetch(form.action, {
      method: "POST",
      body: new FormData(form, submitter),
      headers: { Accept: "text/event-stream", "HX-Request": "true" },
      signal: controller.signal,
    });
    if (!answer.headers.get("Content-Type").startsWith("text/event-stream")) show(await answer.text());
    else await read(answer.body);
  } catch (error) {
    if (error.name !== "AbortError") result.textContent = "The site does not answer. Is it still running? Try again.";
  } finally {
    if (running === controller) busy(null);
  }
};

form.addEventListener("submit", (event) => {
  if (event.defaultPrevented) return; // a button that changes the form alone: see steer-form.js
  event.preventDefault();
  send(event.submitter);
});
stop.addEventListener("click", () => running?.abort());
