// The live rollout page. Each event changes the one tile or batch that it is about, at once; what needs
// the server's words (header, failures, lines of the stream) is fetched as rendered fragments, gathered
// over a moment so that a batch of fifty targets costs one request.

import { fetchInto, gathered } from "./gather.js";
import { saysState } from "./live.js";
import { connect } from "./socket.js";

const LINES_KEPT = 400;
const DONE = new Set(["healthy", "reverted"]);
// A target that is put back still says why.
const PUT_BACK = new Set(["reverting", "reverted"]);

const root = document.querySelector("[data-events-url]");
const stream = document.getElementById("stream");
const said = document.getElementById("announcement");
let newest = Number(root.dataset.after);

function words(state) {
  return state.replaceAll("_", " ");
}

const refreshStatus = gathered(() => fetchInto("status", root.dataset.statusUrl));
const refreshFailures = gathered(() => fetchInto("failures", root.dataset.failuresUrl));
const refreshStream = gathered(async () => {
  const after = stream.firstElementChild?.dataset.number ?? 0;
  await fetchInto("stream", root.dataset.linesUrl, { swap: "afterbegin", values: { after } });
  while (stream.children.length > LINES_KEPT) stream.lastElementChild.remove();
  const shown = Number(stream.firstElementChild?.dataset.number ?? 0);
  // A long absence comes in pages.
  if (after < shown && shown < newest) refreshStream();
});

function refresh() {
  refreshStatus();
  refreshStream();
}

function flash(node) {
  node.classList.remove("is-changed");
  void node.offsetWidth; // restarts the animation
  node.classList.add("is-changed");
}

function changeTile({ id, after, reason }) {
  const tile = document.getElementById(`target-${id}`);
  if (!tile) return;
  tile.dataset.state = after.state;
  if (after.state === "activating") tile.dataset.touched = "";
  tile.querySelector(".tile-state").textContent = words(after.state);
  if (reason || !PUT_BACK.has(after.state)) tile.querySelector(".tile-error").textContent = reason ?? "";
  flash(tile);
  const batch = tile.closest(".batch");
  const tiles = [...batch.querySelectorAll(".tile")];
  const done = tiles.filter((one) => DONE.has(one.dataset.state)).length;
  batch.querySelector("[data-done]").textContent = done;
  if (after.state === "failed" || reason) refreshFailures();
}

function changeBatch({ id, name, after }) {
  const pill = document.getElementById(`batch-${id}`);
  if (!pill) return;
  pill.dataset.state = after.state;
  pill.textContent = words(after.state);
  said.textContent = `${name} ${words(after.state)}`;
}

function take(event) {
  const { kind, data } = event;
  newest = Math.max(newest, event.n);
  if (kind === "target.state") changeTile(data);
  if (kind === "batch.state") changeBatch(data);
  if (kind === "rollout.state") {
    said.textContent = `Rollout ${words(data.after.state)}${data.reason ? `: ${data.reason}` : ""}`;
  }
}

const saysLive = saysState(document.getElementById("live-state"));

connect(root.dataset.eventsUrl, {
  after: newest,
  onEvents(events) {
    events.forEach(take);
    refresh();
  },
  onState(state, detail) {
    saysLive(state, detail);
    // What was fetched while the server was away may have failed.
    if (state === "live") refresh();
  },
});
