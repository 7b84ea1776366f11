// A conversation in a form: another turn, by the one who did not write the last.

document.addEventListener("click", (event) => {
  if (!event.target.closest("[data-add-turn]")) return;
  event.preventDefault(); // where the button asks the server without scripts
  const turns = document.querySelector("[data-turns]");
  const last = turns.querySelector(".chat-turn:last-child");
  const turn = last.cloneNode(true);
  const number = turns.querySelectorAll(".chat-turn").length + 1;
  const [role, content] = [turn.querySelector("select"), turn.querySelector("textarea")];
  role.value = last.querySelector("select").value === "user" ? "assistant" : "user";
  role.setAttribute("aria-label", `Role of turn ${number}`);
  content.value = "";
  content.removeAttribute("id");
  content.removeAttribute("data-key");
  content.setAttribute("aria-label", `Turn ${number}`);
  turns.append(turn);
  content.focus();
});
