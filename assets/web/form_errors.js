// Wrong values on Start: each input that a line of the problem speaks of is marked, and Train goes to the first one.
(() => {
  const lines = () => [...document.querySelectorAll("#start-problem [data-field]")].filter((line) => line.dataset.field);
  let asked = 0;

  function mark() {
    const wrong = new Map(lines().map((line) => [line.dataset.field, line.textContent]));
    for (const field of document.querySelectorAll("[data-wrong]")) if (!wrong.has(field.id)) clear(field);
    for (const [id, text] of wrong) {
      const field = document.getElementById(id);
      if (field && field.dataset.wrong !== text) set(field, text);
    }
    if (wrong.size && Date.now() - asked < 3000) show([...wrong.keys()][0]);
  }

  function clear(field) {
    delete field.dataset.wrong;
    field.querySelector(".wrong")?.remove();
    for (const input of field.querySelectorAll("[aria-invalid]")) {
      input.removeAttribute("aria-invalid");
      input.removeAttribute("aria-describedby");
    }
  }

  function set(field, text) {
    clear(field);
    field.dataset.wrong = text;
    const said = Object.assign(document.createElement("p"), { className: "wrong", id: `${field.id}-wrong`, textContent: text });
    field.append(said);
    const input = field.querySelector("input, textarea");
    input?.setAttribute("aria-invalid", "true");
    input?.setAttribute("aria-describedby", said.id);
  }

  // The field may be on another page of All settings, or behind its fold; opening them calls this again.
  function show(id) {
    const field = document.getElementById(id), fold = document.querySelector("#settings-form > button");
    if (!field?.offsetParent && fold && !fold.classList.contains("open")) return fold.click();
    if (!field) return;
    const page = field.closest("[role=tabpanel]:not(:has(#settings-form))");
    if (!field.offsetParent && page) document.querySelector(`[role=tab][aria-controls="${page.id}"]`)?.click();
    asked = 0;
    setTimeout(() => {
      field.scrollIntoView({ block: "center" });
      field.querySelector("input, textarea")?.focus({ preventScroll: true });
    }, 100);
  }

  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("#go")) return;
    asked = Date.now();
    mark();
  });
  new MutationObserver(mark).observe(document.documentElement, { childList: true, subtree: true });
})();
