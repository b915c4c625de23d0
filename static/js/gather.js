// Fetching fragments: many wishes within a moment are one request, and one request is at work at a time,
// so that two answers never cross. A request that fails is let go: the next event, or the socket that
// comes back, asks again.

const GATHER_MS = 150;

export function gathered(work) {
  let timer = 0;
  let running = false;
  let again = false;

  async function run() {
    timer = 0;
    running = true;
    try {
      await work();
    } catch {
      // htmx has said so in the console.
    }
    running = false;
    if (again) start();
  }

  function start() {
    again = false;
    timer ||= setTimeout(run, GATHER_MS);
  }

  return () => {
    if (running) again = true;
    else start();
  };
}

/** Put the fragment at `url` in the place of the element with this id. */
export function replace(id, url, values = {}) {
  return htmx.ajax("GET", url, { target: `#${id}`, swap: "outerHTML", values });
}
