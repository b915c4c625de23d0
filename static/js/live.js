// What a page says about its socket: live, coming back, or over (with the reason).

const SAID = { live: "Live", reconnecting: "Reconnecting…" };

export function saysState(node) {
  return (state, detail = {}) => {
    node.hidden = false;
    node.dataset.live = state;
    node.textContent = SAID[state] ?? detail.reason ?? "Not live";
  };
}
