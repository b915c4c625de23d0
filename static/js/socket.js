/**
 * A websocket that comes back by itself and goes on after the last event that it has.
 *
 * The server sends `{"events": [{n, at, kind, data}, ...]}`, numbered without gaps in each rollout; on
 * connecting it sends everything after `?after=N` first. Log output is numbered with gaps. Events without
 * a number (an overview's, a target's health) are passed on as they come.
 *
 *     const socket = connect(url, {
 *       after: 12,                        // number of the last event that the page shows
 *       onEvents(events) { ... },         // in order, each number once
 *       onState(state, detail) { ... },   // "live" | "reconnecting" | "ended"; detail.reason when ended
 *     });
 *     socket.close();
 */

const FIRST_DELAY_MS = 250;
const LONGEST_DELAY_MS = 5000;
const STEADY_MS = 5000;

/** Close codes after which the same request would be answered the same way. */
const FINAL = {
  4400: "This page asks for something that the server does not understand. Reload it.",
  4401: "You are signed out. Sign in again.",
  4403: "You may no longer see this.",
  4404: "This does not exist, or is not yours to see.",
};

export function connect(url, { after = 0, onEvents, onState = () => {} }) {
  let last = after;
  let socket = null;
  let timer = 0;
  let failures = 0;
  let openedAt = 0;
  let state = "";

  function say(next, detail = {}) {
    if (next === state) return;
    state = next;
    onState(next, detail);
  }

  function address() {
    const full = new URL(url, window.location.href);
    full.protocol = full.protocol.replace("http", "ws");
    full.searchParams.set("after", String(last));
    return full;
  }

  function open() {
    timer = 0;
    const mine = new WebSocket(address());
    socket = mine;
    mine.onopen = () => {
      openedAt = Date.now();
      say("live");
    };
    mine.onmessage = (message) => {
      if (socket === mine) receive(JSON.parse(message.data).events);
    };
    mine.onclose = (event) => {
      if (socket === mine) closed(event.code);
    };
  }

  function receive(events) {
    const fresh = [];
    for (const event of events) {
      if (event.n === undefined) {
        fresh.push(event);
      } else if (event.n > last) {
        if (event.kind !== "log" && event.n !== last + 1) {
          // Something is missing: show what is whole, and ask again from there.
          if (fresh.length) onEvents(fresh);
          retry();
          return;
        }
        last = event.n;
        fresh.push(event);
      }
    }
    if (fresh.length) onEvents(fresh);
  }

  function closed(code) {
    socket = null;
    if (code in FINAL) {
      say("ended", { reason: FINAL[code], code });
      return;
    }
    retry();
  }

  function retry() {
    const broken = socket;
    socket = null;
    broken?.close();
    // A connection that lasted shows that the server is well; one that broke at once shows nothing.
    failures = openedAt && Date.now() - openedAt > STEADY_MS ? 0 : failures + 1;
    openedAt = 0;
    say("reconnecting");
    // Half of the delay is chance, so that the pages of a restarted server do not come back as one.
    const longest = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** failures);
    timer = window.setTimeout(open, longest * (0.5 + Math.random() / 2));
  }

  function hurry() {
    if (!timer || document.visibilityState === "hidden") return;
    window.clearTimeout(timer);
    open();
  }

  window.addEventListener("online", hurry);
  document.addEventListener("visibilitychange", hurry);
  open();

  return {
    get last() {
      return last;
    },
    get state() {
      return state;
    },
    close() {
      window.removeEventListener("online", hurry);
      document.removeEventListener("visibilitychange", hurry);
      window.clearTimeout(timer);
      timer = 0;
      const closing = socket;
      socket = null;
      closing?.close(1000);
    },
  };
}
