// The sliders under the memory card: where they stand comes with the card, where they are put goes to Python.
(() => {
  const app = window.tunebench;
  const readNotches = (input) => JSON.parse(input.dataset.notches);

  // The notch that is nearest by ratio; the number beside it is the setting itself.
  const findNearest = (all, value) => all.reduce((best, one, at) => (Math.abs(Math.log(one / value)) < Math.abs(Math.log(all[best] / value)) ? at : best), 0);

  function showValue(label, value) {
    const input = label.querySelector("input"), output = label.querySelector("output");
    const words = value.toLocaleString("en");
    if (!input.matches(":active")) input.value = findNearest(readNotches(input), value);
    if (output.textContent !== words) output.textContent = words;
    input.setAttribute("aria-valuetext", words);
  }

  let drawn = "";
  function drawSliders() {
    const card = document.querySelector("#memory [data-sliders]"), place = document.getElementById("memory-sliders");
    if (!card || !place || drawn === card.dataset.sliders) return;
    drawn = card.dataset.sliders;
    const values = JSON.parse(drawn);
    for (const label of place.querySelectorAll("label")) {
      const value = values[label.dataset.key];
      label.hidden = value === undefined;
      if (value !== undefined) showValue(label, value);
    }
  }
  new MutationObserver(drawSliders).observe(document.documentElement, { childList: true, subtree: true, attributes: true, attributeFilter: ["data-sliders"] });

  document.addEventListener("input", (event) => {
    const label = event.target.closest?.("#memory-sliders label");
    if (!label) return;
    const value = readNotches(event.target)[event.target.value];
    showValue(label, value);
    app.sendEvent("moveslider", { key: label.dataset.key, value });
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-suggest]");
    if (button) app.sendEvent("suggest", { model: button.dataset.suggest });
  });
})();
