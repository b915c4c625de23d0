// Relative times and counters, said anew once a second; the words are those of portal/ui/format.py.

const UNITS = [
  [86400, "d"],
  [3600, "h"],
  [60, "min"],
  [1, "s"],
];

export function age(seconds) {
  const ahead = seconds < 0;
  const whole = Math.round(Math.abs(seconds));
  if (whole < 5) return "just now";
  const [size, name] = UNITS.find(([size]) => whole >= size);
  const text = `${Math.floor(whole / size)} ${name}`;
  return ahead ? `in ${text}` : `${text} ago`;
}

export function duration(seconds) {
  const total = Math.max(0, Math.round(seconds));
  const at = UNITS.findIndex(([size]) => total >= size || size === 1);
  const [size, name] = UNITS[at];
  const smaller = UNITS[at + 1];
  const part = smaller ? Math.floor((total % size) / smaller[0]) : 0;
  const head = `${Math.floor(total / size)} ${name}`;
  return part ? `${head} ${part} ${smaller[1]}` : head;
}

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function refresh() {
  const now = Date.now();
  for (const node of document.querySelectorAll("time.ago")) {
    say(node, age((now - Date.parse(node.dateTime)) / 1000));
  }
  for (const node of document.querySelectorAll("[data-elapsed-since]")) {
    say(node, duration((now - Date.parse(node.dataset.elapsedSince)) / 1000));
  }
  for (const node of document.querySelectorAll("[data-remaining-until]")) {
    say(node, duration((Date.parse(node.dataset.remainingUntil) - now) / 1000));
  }
}

export function keepTimes() {
  refresh();
  setInterval(refresh, 1000);
}
