// The page's labels and sentences. They stand in assets/texts/en.toml; `PAGE_TEXTS` has them by code.
(() => {
  // `{name}` becomes the parameter, `{votes:# vote|# votes}` the form for its number. As in trainer_core/texts.py; other formats are
  // for Python only: a script formats a number itself.
  const formatValue = (value, forms) => {
    if (forms === undefined) return `${value}`;
    const [one, other] = forms.split("|");
    return (value === 1 ? one : other).replaceAll("#", value.toLocaleString("en-US"));
  };

  // An unknown code is shown as it is.
  window.pageText = (code, params = {}) =>
    (PAGE_TEXTS[code] ?? code).replace(/\{(\w+)(?::([^}]*))?\}/g, (_, name, forms) => formatValue(params[name], forms));
})();
