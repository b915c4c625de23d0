// The overview hears that something changed and asks for the matrix again; the server answers 204 when
// nothing that is shown has changed. Without a socket the matrix asks by itself every half minute.

import { saysState } from "./live.js";
import { connect } from "./socket.js";

connect(document.getElementById("matrix").dataset.eventsUrl, {
  onEvents() {
    htmx.trigger("#matrix", "refresh");
  },
  onState: saysState(document.getElementById("live-state")),
});
