// Wrong values on Start: each input that a line of the problem speaks of is marked, and Train goes to the first one.
(() => {
  const findLines = () => [...document.querySelectorAll("#start-problem [data-field]")].filter((line) => line.dataset.field);
  let clickedAt = 0;

  function markFields() {
    const wrong = new Map(findLines().map((line) => [line.dataset.field, line.textContent]));
    for (const field of document.querySelectorAll("[data-wrong]")) if (!wrong.has(field.id)) clearError(field);
    for (const [id, text] of wrong) {
      const field = document.getElementById(id);
      if (field && field.dataset.wrong !== text) showError(field, text);
    }
    if (wrong.size && Date.now() - clickedAt < 3000) showField([...wrong.keys()][0]);
  }

  function clearError(field) {
    delete field.dataset.wrong;
    field.querySelector(".wrong")?.remove();
    for (const input of field.querySelectorAll("[aria-invalid]")) {
      input.removeAttribute("aria-invalid");
      input.removeAttribute("aria-describedby");
    }
  }

  function showError(field, text) {
    clearError(field);
    field.dataset.wrong = text;
    const message = Object.assign(document.createElement("p"), { className: "wrong", id: `${field.id}-wrong`, textContent: text });
    field.append(message);
    const input = field.querySelector("input, textarea");
    input?.setAttribute("aria-invalid", "true");
    input?.setAttribute("aria-describedby", message.id);
  }

  // The field may be on another page of All settings, or behind its fold; opening them calls this again.
  function showField(id) {
    const field = document.getElementById(id), fold = document.querySelector("#settings-form > button");
    if (!field?.offsetParent && fold && !fold.classList.contains("open")) return fold.click();
    if (!field) return;
    const page = field.closest("[role=tabpanel]:not(:has(#settings-form))");
    if (!field.offsetParent && page) document.querySelector(`[role=tab][aria-controls="${page.id}"]`)?.click();
    clickedAt = 0;
    setTimeout(() => {
      field.scrollIntoView({ block: "center" });
      field.querySelector("input, textarea")?.focus({ preventScroll: true });
    }, 100);
  }

  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("#go")) return;
    clickedAt = Date.now();
    markFields();
  });
  new MutationObserver(markFields).observe(document.documentElement, { childList: true, subtree: true });
})();
