"use strict";
// Asks for the facts each second and shows them. Texts are set as text, never as HTML.

const POLL_MILLISECONDS = 1000;
const FULL = 16; // requests that fill a worker's bar
let model = "";

const at = (id) => document.getElementById(id);

function say(id, value, goal, kept) {
  const figure = at(id);
  figure.querySelector(".value").textContent = value;
  figure.querySelector(".goal").textContent = goal;
  figure.classList.toggle("kept", kept === true);
  figure.classList.toggle("missed", kept === false);
}

function latency(id, measured, objective, percentile) {
  const value = measured === null ? "-" : `${measured.toFixed(measured < 100 ? 1 : 0)} ms`;
  const goal = objective === null ? "no objective" : `objective ${objective} ms for ${percentile} %`;
  say(id, value, goal, measured === null || objective === null ? null : measured <= objective);
}

function item(worker) {
  const line = document.createElement("li");
  line.dataset.phase = worker.phase;
  line.dataset.name = worker.name;
  const title = document.createElement("span");
  title.textContent = worker.phase === "ready" ? worker.name : `${worker.name}: ${worker.phase}`;
  const bar = document.createElement("meter");
  bar.max = FULL;
  bar.value = Math.min(worker.inFlight, FULL);
  bar.title = `${worker.inFlight} requests`;
  const count = document.createElement("small");
  count.textContent = `${worker.inFlight} requests`;
  line.append(title, bar, count);
  return line;
}

function show(facts) {
  model = facts.model;
  at("service").textContent = facts.service;
  at("model").textContent = facts.model;
  const goals = facts.objectives;
  latency("ttft", facts.latencies.ttftMilliseconds, goals.ttftMilliseconds, goals.percentile);
  latency("tpot", facts.latencies.tpotMilliseconds, goals.tpotMilliseconds, goals.percentile);
  if (facts.cost === null) {
    say("cost", "-", "no price is set", null);
  } else {
    const { perMillionTokens: cost, currency, ceiling } = facts.cost;
    const goal = ceiling === null ? "no ceiling" : `ceiling ${ceiling} ${currency}`;
    const known = cost === null ? "-" : `${cost.toFixed(2)} ${currency}`;
    say("cost", known, goal, cost === null || ceiling === null ? null : cost <= ceiling);
  }
  const load = facts.load;
  say(
    "load",
    `${load.outputTokensPerSecond.toFixed(1)} tokens/s`,
    `${load.requestsPerSecond.toFixed(2)} requests/s, ${load.waiting} wait, ${load.decoding} decode`,
    null,
  );
  const places = { prefill: [], decode: [], none: [] };
  for (const worker of facts.workers) {
    for (const role of worker.role === "both" ? ["prefill", "decode"] : [worker.role]) {
      (places[role] ?? places.none).push(item(worker));
    }
  }
  for (const [role, items] of Object.entries(places)) at(role).replaceChildren(...items);
  at("events").replaceChildren(
    ...facts.events.map(({ time, text }) => {
      const line = document.createElement("li");
      line.textContent = `${time}  ${text}`;
      return line;
    }),
  );
}

async function poll() {
  try {
    const answer = await fetch("facts");
    if (!answer.ok) throw new Error(await answer.text());
    show(await answer.json());
    at("state").textContent = "live";
  } catch (error) {
    at("state").textContent = `not connected: ${error.message}`;
  }
  setTimeout(poll, POLL_MILLISECONDS);
}

async function ask(prompt, key) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const messages = [{ role: "user", content: prompt }];
  const body = JSON.stringify({ model, messages, stream: true, max_tokens: 256 });
  const begin = performance.now();
  let first = null;
  let tokens = 0;
  const answer = await fetch("v1/chat/completions", { method: "POST", headers, body });
  if (!answer.ok) throw new Error(await answer.text());
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Error(event.error.message);
      const text = event.choices[0]?.delta?.content;
      if (!text) continue;
      first ??= performance.now();
      tokens += 1;
      at("answer").textContent += text;
    }
  }
  const end = performance.now();
  const pace = tokens > 1 ? `, ${((end - first) / (tokens - 1)).toFixed(1)} ms a piece` : "";
  at("timing").textContent = first === null ? "" : `first text after ${(first - begin).toFixed(0)} ms${pace}`;
}

at("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = event.target.querySelector("button");
  button.disabled = true;
  at("answer").textContent = at("timing").textContent = "";
  try {
    await ask(at("prompt").value, at("key").value);
  } catch (error) {
    at("timing").textContent = error.message;
  } finally {
    button.disabled = false;
  }
});

poll();
