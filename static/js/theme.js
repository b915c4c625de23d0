// The form works without this by a round trip; with it the colours change at once. The choice is a
// cookie, so that the server renders the next page in it and nothing flashes.

const NEXT = { system: "light", light: "dark", dark: "system" };
const A_YEAR_SECONDS = 365 * 24 * 3600;

export function switchTheme(form) {
  form?.addEventListener("submit", (event) => {
    event.preventDefault();
    const input = form.elements.theme;
    const theme = input.value;
    const secure = location.protocol === "https:" ? "; Secure" : "";
    document.cookie = `slipway_theme=${theme}; path=/; max-age=${A_YEAR_SECONDS}; SameSite=Lax${secure}`;
    document.documentElement.dataset.theme = theme;
    input.value = NEXT[theme];
    const button = form.querySelector("button");
    button.setAttribute("aria-label", `Theme: ${theme}. Change to ${NEXT[theme]}`);
    button.title = button.getAttribute("aria-label");
  });
}
