// Dialogs, and the one that lists the keyboard shortcuts and switches them off, for people whose voice input or
// assistive software types single keys. Every tab reads the setting from the same storage.

let singleKeys = true;

export const singleKeysWork = () => {
  try {
    singleKeys = localStorage.getItem("keys") !== "off";
  } catch {
    // Storage may be forbidden; the setting then lasts as long as the page.
  }
  return singleKeys;
};

const setSingleKeys = (on) => {
  singleKeys = on;
  try {
    localStorage.setItem("keys", on ? "on" : "off");
  } catch {
    // As above.
  }
};

export const openKeys = () => {
  const dialog = document.getElementById("keys");
  dialog.querySelector("[data-shortcuts]").checked = singleKeysWork();
  dialog.showModal();
};

document.addEventListener("click", (event) => {
  if (event.target.closest("[data-open-keys]")) openKeys();
  if (event.target.matches("dialog")) event.target.close(); // a click beside it
});
document.addEventListener("change", (event) => {
  if (event.target.matches("[data-shortcuts]")) setSingleKeys(event.target.checked);
});
