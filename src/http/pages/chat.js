// The chat page: sends a message, reads the event stream, shows the decision beside the reply.
"use strict";

const chat = document.getElementById("chat");
const words = chat.dataset;
const messages = document.getElementById("messages");
const why = document.getElementById("why");
const form = document.getElementById("say");
const field = document.getElementById("text");

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function bubble(who, text) {
  const item = element("li", who, text);
  messages.append(item);
  item.scrollIntoView({ block: "end" });
  return item;
}

function row(list, term, ...values) {
  const shown = values.filter((value) => value !== undefined && value !== null && value !== "");
  if (shown.length === 0) return;
  list.append(element("dt", "", term));
  for (const value of shown) {
    const cell = element("dd");
    cell.append(value);
    list.append(cell);
  }
}

function showTrace(trace) {
  const list = element("dl");
  row(list, words.decision, element("span", `verdict ${trace.verdict}`, trace.verdict_text));
  row(list, words.reasons, trace.reasons.join("、"));
  row(list, words.confidence, trace.confidence);
  if (trace.rewritten) row(list, words.understood, trace.question);
  row(list, words.rules, trace.rules.join(" "));
  if (trace.draft && trace.verdict !== "auto_reply") row(list, words.draft, trace.draft.text);
  row(list, words.evidence, ...trace.evidence.map((found) => {
    const box = element("details");
    box.append(element("summary", "", `${found.score}  ${found.question}`));
    box.append(element("code", "", `${found.id} v${found.version}`));
    box.append(element("p", "", found.answer || "—"));
    return box;
  }));
  row(list, words.timings, trace.timings.map((t) => `${t.step} ${t.ms}`).join(" · "));
  const link = element("a", "", words.trace);
  link.href = `/traces/${trace.id}`;
  row(list, "", link);
  why.replaceChildren(element("h2", "", words.why), list);
}

// Server-sent events out of a POST: blocks are separated by an empty line.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += value;
    let end;
    while ((end = held.indexOf("\n\n")) >= 0) {
      const lines = held.slice(0, end).split("\n");
      held = held.slice(end + 2);
      const pick = (name) =>
        lines.filter((l) => l.startsWith(name)).map((l) => l.slice(name.length).trim()).join("\n");
      const data = pick("data:");
      if (data) yield { name: pick("event:"), data: JSON.parse(data) };
    }
  }
}

// randomUUID() exists in secure contexts only; this works over plain http as well.
function freshId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function send(text) {
  bubble("customer", text);
  const answer = bubble("agent waiting", "…");
  const body = JSON.stringify({ text, id: freshId() });
  try {
    const headers = { "content-type": "application/json" };
    const response = await fetch(`/chat/messages?lang=${document.documentElement.lang}`, { method: "POST", headers, body });
    if (!response.ok) throw new Error(String(response.status));
    let replied = false;
    for await (const { name, data } of events(response)) {
      if (name === "step") answer.textContent = `${data.step} ${data.ms.toFixed(0)} ms …`;
      if (name === "reply") {
        replied = true;
        answer.className = `agent ${data.trace.verdict}`;
        answer.textContent = data.text;
        answer.tabIndex = 0;
        answer.addEventListener("focus", () => showTrace(data.trace));
        showTrace(data.trace);
      }
    }
    if (!replied) throw new Error("no reply");
  } catch {
    answer.className = "agent failed";
    answer.textContent = words.offline;
  }
  answer.scrollIntoView({ block: "end" });
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = field.value.trim();
  if (!text) return;
  field.value = "";
  send(text);
});

field.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
  }
});
