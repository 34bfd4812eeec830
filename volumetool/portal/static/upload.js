// Sends a file in pieces (tus 1.0.0): what is cut goes on at the byte that the server has, after a reload too.
"use strict";

const PIECE = 8 * 2 ** 20;
const LONGEST_WAIT = 30;
const PLACE = "/api/uploads";

const form = document.getElementById("send");
const told = document.getElementById("told");
const bar = document.getElementById("sent");

function base64(bytes) {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

function ask(method, place, headers = {}, body = null) {
  const token = form.dataset.token;
  return fetch(place, { method, body, headers: { "Tus-Resumable": "1.0.0", "X-Form-Token": token, ...headers } });
}

async function reasonOf(answer) {
  const said = await answer.json().catch(() => ({}));
  return said.detail ?? `The server answered ${answer.status}.`;
}

// The upload of this file that was begun before, of this or another page; else a new one.
async function begin(file, voxelSize) {
  const listed = await (await ask("GET", PLACE)).json();
  const same = (each) => each.name === file.name && each.length === file.size && each.modified === file.lastModified;
  const former = listed.uploads.find((each) => each.state === "receiving" && same(each));
  if (former) return `${PLACE}/${former.id}`;
  const fields = { filename: file.name, modified: String(file.lastModified), voxel_size: voxelSize };
  const encoder = new TextEncoder();
  const metadata = Object.entries(fields).filter(([, value]) => value).map(([name, value]) => `${name} ${base64(encoder.encode(value))}`);
  const answer = await ask("POST", PLACE, { "Upload-Length": String(file.size), "Upload-Metadata": metadata.join(",") });
  if (answer.status !== 201) throw new Error(await reasonOf(answer));
  return answer.headers.get("Location");
}

function complain(text) {
  told.textContent = text;
  told.className = "wrong";
}

function show(offset, size) {
  const percent = Math.floor((100 * offset) / size);
  bar.hidden = false;
  bar.value = percent;
  if (bar.dataset.told !== String(Math.floor(percent / 10))) {
    bar.dataset.told = String(Math.floor(percent / 10));
    told.textContent = `${percent} % sent`;
  }
}

async function sendPiece(file, place, offset) {
  const piece = await file.slice(offset, offset + PIECE).arrayBuffer();
  const digest = base64(new Uint8Array(await crypto.subtle.digest("SHA-256", piece)));
  const headers = { "Content-Type": "application/offset+octet-stream", "Upload-Offset": String(offset), "Upload-Checksum": `sha256 ${digest}` };
  return ask("PATCH", place, headers, piece);
}

async function send(file, place) {
  let offset = null;
  for (let wait = 1; offset === null || offset < file.size; ) {
    const answer = await (offset === null ? ask("HEAD", place) : sendPiece(file, place, offset)).catch(() => null);
    if (answer && answer.ok) {
      offset = Number(answer.headers.get("Upload-Offset"));
      wait = 1;
      show(offset, file.size);
      continue;
    }
    if (answer && [401, 403, 404, 413, 415, 507].includes(answer.status)) throw new Error(await reasonOf(answer));
    told.textContent = `The connection was cut. It goes on in ${wait} s.`;
    await new Promise((done) => setTimeout(done, 1000 * wait));
    wait = Math.min(2 * wait, LONGEST_WAIT);
    offset = null;
  }
}

if (form) {
  const chosen = form.elements.file;
  const drop = document.getElementById("drop");
  for (const kind of ["dragover", "dragleave", "drop"])
    drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.toggle("over", kind === "dragover"); });
  drop.addEventListener("drop", (event) => { if (event.dataTransfer.files.length) chosen.files = event.dataTransfer.files; });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const file = chosen.files[0];
    const button = form.querySelector("button");
    if (file.size === 0) return complain("The file is empty.");
    if (file.size > Number(form.dataset.limit)) return complain("The file is too large.");
    told.className = told.textContent = "";
    button.disabled = true;
    try {
      const place = await begin(file, form.elements.voxel_size.value.trim());
      await send(file, place);
      location.assign(place.replace("/api", ""));
    } catch (error) {
      complain(error.message);
      button.disabled = false;
    }
  });
}

// The page of one upload: it is loaded again when there is something new to see.
async function followUpload(shown) {
  for (;;) {
    await new Promise((done) => setTimeout(done, 1000));
    const answer = await fetch(`${PLACE}/${shown.dataset.upload}`).catch(() => null);
    if (answer === null || answer.status >= 500) continue;
    if (!answer.ok) return;
    const found = await answer.json();
    if (found.state !== shown.textContent || found.preview !== shown.dataset.preview) {
      location.reload();
      return;
    }
  }
}

const shown = document.getElementById("upload");
if (shown && (["receiving", "looked at"].includes(shown.textContent) || shown.dataset.preview === "in work")) followUpload(shown);
