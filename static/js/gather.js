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

/**
 * Put the fragment at `url` into the element with this id, or in its place; fulfilled when it is there.
 *
 * The element is named as the source too: htmx allows one request for each source and drops others, and
 * without one all would share the body.
 */
export function fetchInto(id, url, { swap = "outerHTML", values = {} } = {}) {
  return htmx.ajax("GET", url, { source: `#${id}`, target: `#${id}`, swap, values });
}
