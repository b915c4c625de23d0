// The log of a target grows as its service writes; the view follows the end unless somebody scrolled up.

import { fetchInto, gathered } from "./gather.js";
import { saysState } from "./live.js";
import { connect } from "./socket.js";

const CHARACTERS_KEPT = 200_000;

const log = document.getElementById("log");
const health = document.getElementById("health");

const refreshDrift = gathered(() => fetchInto("drift", document.getElementById("drift").dataset.url));

function toEnd() {
  log.scrollTop = log.scrollHeight;
}

function append({ text, dropped }) {
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 24;
  log.querySelector("[data-empty]")?.remove();
  log.append((dropped ? `[${dropped} lines left out]\n` : "") + text);
  if (log.textContent.length > CHARACTERS_KEPT) log.textContent = log.textContent.slice(-CHARACTERS_KEPT / 2);
  if (follows) toEnd();
}

toEnd();
connect(log.dataset.eventsUrl, {
  after: Number(log.dataset.after),
  onEvents(events) {
    for (const { kind, data } of events) {
      if (kind === "log") append(data);
      if (kind === "target") refreshDrift();
      if (kind === "target" && health.dataset.state !== "empty") {
        health.dataset.state = data.health;
        health.textContent = data.health;
      }
    }
  },
  onState: saysState(document.getElementById("live-state")),
});
