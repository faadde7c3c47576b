// The sliders under the memory card: where they stand comes with the card, where they are put goes to Python.
(() => {
  const app = window.tunebench;
  const notches = (input) => JSON.parse(input.dataset.notches);

  // The notch that is nearest by ratio; the number beside it is the setting itself.
  const nearest = (all, value) => all.reduce((best, one, at) => (Math.abs(Math.log(one / value)) < Math.abs(Math.log(all[best] / value)) ? at : best), 0);

  function show(label, value) {
    const input = label.querySelector("input"), output = label.querySelector("output");
    const words = value.toLocaleString("en");
    if (!input.matches(":active")) input.value = nearest(notches(input), value);
    if (output.textContent !== words) output.textContent = words;
    input.setAttribute("aria-valuetext", words);
  }

  let drawn = "";
  function draw() {
    const card = document.querySelector("#memory [data-levers]"), place = document.getElementById("levers");
    if (!card || !place || drawn === card.dataset.levers) return;
    drawn = card.dataset.levers;
    const values = JSON.parse(drawn);
    for (const label of place.querySelectorAll("label")) {
      const value = values[label.dataset.key];
      label.hidden = value === undefined;
      if (value !== undefined) show(label, value);
    }
  }
  new MutationObserver(draw).observe(document.documentElement, { childList: true, subtree: true, attributes: true, attributeFilter: ["data-levers"] });

  document.addEventListener("input", (event) => {
    const label = event.target.closest?.("#levers label");
    if (!label) return;
    const value = notches(event.target)[event.target.value];
    show(label, value);
    app.send("lever", { key: label.dataset.key, value });
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-suggest]");
    if (button) app.send("suggest", { model: button.dataset.suggest });
  });
})();
