// A link with data-dialog opens that dialog instead of following its address, which shows the same form
// as a page of its own. What there is to choose in it is fetched when it opens: it changes by the minute.

import { fetchInto } from "./gather.js";

export function openDialogs() {
  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-dialog]");
    if (opener && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      const dialog = document.getElementById(opener.dataset.dialog);
      if (!dialog) return;
      event.preventDefault();
      dialog.showModal();
      const choice = dialog.querySelector("[data-choice-url]");
      // Where it cannot be had, the server's own page of the form says why.
      if (choice) fetchInto(choice.id, choice.dataset.choiceUrl, { swap: "innerHTML" }).catch(() => {});
      dialog.querySelector("textarea, input:not([type=hidden])")?.focus();
      // The opener may be rendered anew while the dialog is open: give the focus back by id.
      dialog.addEventListener("close", () => document.getElementById(opener.id)?.focus(), { once: true });
    }
  });
}
