// Follows a job without loading its page again, asks before something is deleted, and says when a form takes long.
"use strict";

const ENDED = ["planned", "complete", "failed", "cancelled"];
const SECONDS = 2;

async function follow(state) {
  const began = state.textContent;
  for (;;) {
    await new Promise((done) => setTimeout(done, 1000 * SECONDS));
    const answer = await fetch(`/api/jobs/${state.dataset.job}`).catch(() => null);
    if (answer === null || answer.status >= 500) continue;
    if (!answer.ok) return;
    const told = await answer.json();
    document.getElementById("progress").value = told.percent ?? 0;
    document.getElementById("left").textContent = told.left ? `, about ${told.left} left` : "";
    state.textContent = told.state;
    const drawn = [...document.querySelectorAll("[data-page]")].every((page) => told.pages[page.dataset.page] === page.dataset.drawn);
    if (!drawn || (ENDED.includes(told.state) && told.state !== began)) {
      location.reload();
      return;
    }
  }
}

const state = document.getElementById("state");
if (state && (!ENDED.includes(state.textContent) || document.querySelector("[data-drawn='in work']"))) follow(state);

for (const form of document.querySelectorAll("form[data-ask]"))
  form.addEventListener("submit", (event) => { if (!confirm(form.dataset.ask)) event.preventDefault(); });

for (const button of document.querySelectorAll("button[data-busy]"))
  button.form.addEventListener("submit", () => { button.textContent = button.dataset.busy; button.disabled = true; });
