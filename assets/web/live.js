// The live channel: polls once a second, keeps the answer in window.tunebench, and redraws the page.
// It runs inside the element #live, where Gradio gives `server` (Python) and `trigger` (events to Python).
const app = window.tunebench;
// Gradio takes those whose names stand here in quotes.
const EVENTS = ["statechange", "opencompare", "usestep", "resume", "extend", "retry", "clone", "editrun", "openfolder", "trashrun", "restore", "emptytrash", "usedata", "moveslider", "suggest", "exportrun", "stopexport", "resumeexport", "openexport"];
app.sendEvent = (event, data) => {
  if (event === "opencompare") expectLanes(data.run);
  if (EVENTS.includes(event)) trigger(event, data);
};

// Lanes are drawn before they are known; not for ever, for opening them may be refused.
function expectLanes(run) {
  app.opening = run;
  setTimeout(() => (app.opening = ""), 10_000);
  app.pollSoon();
}

app.saveReport = async (run) => {
  const page = await server.render_report(run);
  if (page) app.tools.saveFile(`tunebench-${run}.html`, new Blob([page], { type: "text/html" }));
};

app.loadExportOptions = (run) => server.export_options(run);
app.storage = { report: () => server.storage_report(), move: (asked) => server.move_storage(asked), stop: () => server.stop_move(), free: (asked) => server.free_storage(asked) };

const HIDDEN = 5000; // nobody looks; title and notification may be so late
const TAB = 30; // milliseconds: another tab was opened, and what it shows is not here
let timer = 0, polling = false, fastUntil = 0;

async function pollServer() {
  let pause = Date.now() < fastUntil ? 200 : document.hidden ? HIDDEN : 1000;
  polling = true;
  try {
    let update = await server.poll(app.buildCursor());
    if (update?.stale) update = await server.poll(app.buildCursor(true)); // something changed: say part by part what is here
    if (!update) throw new Error("no answer"); // what Gradio gives when the server is gone
    app.failing = 0;
    app.applyUpdate(update);
    if (update.parts?.buttons) trigger("statechange", {});
    if (app.finishedWhileWatching) {
      const run = app.finishedWhileWatching;
      app.finishedWhileWatching = "";
      app.sendEvent("opencompare", { run });
    }
    if (app.getPart("compare")?.answering) pause = 120;
    if (app.polledTab !== app.tools.findOpenTab()) pause = TAB;
  } catch (error) {
    if (!(error instanceof TypeError) && app.failing === 0) console.warn("Tunebench: no answer", error);
    app.failing += 1;
  }
  app.showLostConnection(app.failing > 2);
  polling = false;
  timer = setTimeout(pollServer, pause); // not setInterval: a slow answer must not overlap the next
}

// After a click something is about to change: ask sooner for a moment.
app.pollSoon = (soon = 200) => {
  fastUntil = Date.now() + 2000;
  if (polling) return;
  clearTimeout(timer);
  timer = setTimeout(pollServer, soon);
};
document.addEventListener("click", (event) => event.target.closest("button") && app.pollSoon(event.target.closest("[role=tab]") ? TAB : undefined));
document.addEventListener("visibilitychange", () => !document.hidden && app.pollSoon(0));
pollServer();
