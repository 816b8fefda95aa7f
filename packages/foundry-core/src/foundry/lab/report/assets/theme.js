"use strict";
/* The theme: the system's, until the button says otherwise. Where storage is refused the choice lasts until a reload. */
(() => {
  const NEXT = { auto: "light", light: "dark", dark: "auto" };
  const SIGNS = { auto: "◐ auto", light: "○ light", dark: "● dark" };
  const button = document.getElementById("theme");
  const stored = () => { try { return localStorage.getItem("foundry-theme"); } catch { return null; } };

  function show(theme) {
    document.documentElement.dataset.theme = theme;
    button.textContent = SIGNS[theme];
    button.setAttribute("aria-label", `theme: ${theme}; switch to ${NEXT[theme]}`);
  }

  button.addEventListener("click", () => {
    const theme = NEXT[document.documentElement.dataset.theme];
    try { localStorage.setItem("foundry-theme", theme); } catch { /* not kept */ }
    show(theme);
  });
  const before = stored();
  show(before in NEXT ? before : "auto");
  button.parentElement.hidden = false;
})();
