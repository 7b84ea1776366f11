// Copies the page's link to the clipboard.

const copy = document.querySelector("[data-copy-link]");
copy.hidden = !navigator.clipboard; // plain http has none; the address bar has the link
copy.addEventListener("click", async () => {
  const words = copy.firstElementChild;
  try {
    await navigator.clipboard.writeText(new URL(copy.dataset.copyLink, location.href).href);
    words.textContent = "Link copied";
  } catch {
    words.textContent = "Copy it from the address bar";
  }
  setTimeout(() => (words.textContent = "Copy link"), 3000);
});
