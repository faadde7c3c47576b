// The bus. Asks once a second what is new, keeps it in window.tunebench, and tells the page.
// It runs inside the bus element, where Gradio gives `server` (Python) and `trigger` (events to Python).
const app = window.tunebench;
app.send = (event, data) => trigger(event, data);

async function tick() {
  let pause = 1000;
  try {
    const news = await server.poll(app.cursor());
    app.failing = 0;
    app.take(news);
    if (news.parts.gates) trigger("statechange", {});
    if (app.finishedWhileWatching) {
      const run = app.finishedWhileWatching;
      app.finishedWhileWatching = "";
      trigger("opencompare", { run });
    }
    if (app.is("compare")?.phase === "answering") pause = 120;
  } catch (error) {
    if (!(error instanceof TypeError) && app.failing === 0) console.warn("Tunebench: no answer", error);
    app.failing += 1;
  }
  app.lost(app.failing > 2);
  setTimeout(tick, pause); // not setInterval: a slow answer must not overlap the next
}
tick();
