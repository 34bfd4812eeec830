// Follows a job without loading its page again, asks before something is deleted, and says when a form takes long.
"use strict";

const ENDED = ["planned", "complete", "failed", "cancelled"];
const SECONDS = 2;

function show(told) {
  document.getElementById("progress").value = told.percent ?? 0;
  document.getElementById("told").textContent = told.told;
  document.getElementById("log").textContent = told.log.join("\n");
  document.getElementById("said").hidden = told.log.length === 0;
  const later = document.getElementById("look-later");
  const frame = document.getElementById("look-frame") ?? later?.content.firstElementChild ?? null;
  if (frame !== null && told.view !== null && frame.getAttribute("src") !== told.view) {
    frame.src = document.getElementById("look-apart").href = told.view;
    document.getElementById("look").hidden = false;
    later?.replaceWith(frame);
  }
}

async function follow(state) {
  const began = state.textContent;
  for (;;) {
    await new Promise((done) => setTimeout(done, 1000 * SECONDS));
    const answer = await fetch(`/api/jobs/${state.dataset.job}`).catch(() => null);
    if (answer === null || answer.status >= 500) continue;
    if (!answer.ok) return;
    const told = await answer.json();
    show(told);
    if (state.textContent !== told.state) state.textContent = told.state;
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
