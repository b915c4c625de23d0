// The overview hears that something changed and asks for the matrix again; the server answers 204 when
// nothing that is shown has changed. Without a socket the matrix asks by itself every half minute.

import { connect } from "./socket.js";

const live = document.getElementById("live-state");

connect(document.getElementById("matrix").dataset.eventsUrl, {
  onEvents() {
    htmx.trigger("#matrix", "refresh");
  },
  onState(state) {
    live.hidden = false;
    live.dataset.live = state;
    live.textContent = state === "live" ? "Live" : "Reconnecting…";
  },
});
