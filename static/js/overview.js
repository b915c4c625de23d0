// The overview hears that something changed and asks for the matrix again; the server answers 204 when
// nothing that is shown has changed. Without a socket it asks every half minute.

import { fetchInto, gathered } from "./gather.js";
import { saysState } from "./live.js";
import { connect } from "./socket.js";

const ASK_MS = 30_000;

const refresh = gathered(() => {
  const query = new FormData(document.getElementById("matrix-query"));
  return fetchInto("matrix", location.pathname, { values: Object.fromEntries(query) });
});
const saysLive = saysState(document.getElementById("live-state"));

setInterval(refresh, ASK_MS);
connect(document.getElementById("matrix").dataset.eventsUrl, {
  onEvents: refresh,
  onState(state, detail) {
    saysLive(state, detail);
    if (state === "live") refresh();
  },
});
