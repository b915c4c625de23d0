// A link with data-dialog opens that dialog instead of following its address, which shows the same form
// as a page of its own.

export function openDialogs() {
  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-dialog]");
    if (opener && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      const dialog = document.getElementById(opener.dataset.dialog);
      if (!dialog) return;
      event.preventDefault();
      dialog.showModal();
      dialog.querySelector("textarea, input:not([type=hidden])")?.focus();
      // The opener may be rendered anew while the dialog is open: give the focus back by id.
      dialog.addEventListener("close", () => document.getElementById(opener.id)?.focus(), { once: true });
    }
  });
}
