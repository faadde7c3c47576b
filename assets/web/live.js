// The bus. Asks once a second what is new, keeps it in window.tunebench, and tells the page.
// It runs inside the bus element, where Gradio gives `server` (Python) and `trigger` (events to Python).
const app = window.tunebench;
// Gradio takes those whose names stand here in quotes.
const EVENTS = ["statechange", "opencompare", "keepstep", "resume", "prolong", "retry", "clone", "about", "openfolder", "throwaway", "restore", "emptytrash", "usedata", "lever", "suggest"];
app.send = (event, data) => {
  if (event === "opencompare") expect(data.run);
  if (EVENTS.includes(event)) trigger(event, data);
};

// Lanes are drawn before they are known; not for ever, for opening them may be refused.
function expect(run) {
  app.opening = run;
  setTimeout(() => (app.opening = ""), 10_000);
  app.hurry();
}

app.report = async (run) => {
  const page = await server.render_report(run);
  if (page) app.tools.take(`tunebench-${run}.html`, new Blob([page], { type: "text/html" }));
};

const HIDDEN = 5000; // nobody looks; title and notification may be so late
const TAB = 30; // milliseconds: another tab was opened, and what it shows is not here
let timer = 0, asking = false, hurried = 0;

async function tick() {
  let pause = Date.now() < hurried ? 200 : document.hidden ? HIDDEN : 1000;
  asking = true;
  try {
    let news = await server.poll(app.cursor());
    if (news?.stale) news = await server.poll(app.cursor(true)); // something changed: say part by part what is here
    if (!news) throw new Error("no answer"); // what Gradio gives when the server is gone
    app.failing = 0;
    app.take(news);
    if (news.parts?.gates) trigger("statechange", {});
    if (app.finishedWhileWatching) {
      const run = app.finishedWhileWatching;
      app.finishedWhileWatching = "";
      app.send("opencompare", { run });
    }
    if (app.is("compare")?.answering) pause = 120;
    if (app.asked !== app.tools.openTab()) pause = TAB;
  } catch (error) {
    if (!(error instanceof TypeError) && app.failing === 0) console.warn("Tunebench: no answer", error);
    app.failing += 1;
  }
  app.lost(app.failing > 2);
  asking = false;
  timer = setTimeout(tick, pause); // not setInterval: a slow answer must not overlap the next
}

// After a click something is about to change: ask sooner for a moment.
app.hurry = (soon = 200) => {
  hurried = Date.now() + 2000;
  if (asking) return;
  clearTimeout(timer);
  timer = setTimeout(tick, soon);
};
document.addEventListener("click", (event) => event.target.closest("button") && app.hurry(event.target.closest("[role=tab]") ? TAB : undefined));
document.addEventListener("visibilitychange", () => !document.hidden && app.hurry(0));
tick();
