"""The Compare tab as HTML: the lanes with the vote, and the parts below."""

from __future__ import annotations

LANES = """
<div id="compare-empty" class="empty" hidden><h2>Nothing to compare yet</h2>
  <p>After training, base, SFT and DPO answer side by side here.</p>
  <p><button type="button" class="button" id="compare-start">Go to Start</button></p></div>
<div id="compare-failed" class="verdict bad" role="alert" hidden><p></p>
  <button type="button" class="button small" id="compare-reload">Load again</button></div>
<div id="compare-status" class="status" role="status" aria-live="polite"></div>
<div id="compare-error" class="verdict bad" role="alert" hidden></div>
<section id="vote-question" class="card" aria-label="Question of the blind vote" hidden>
  <header class="row"><h2 id="vote-number"></h2><span>
    <button type="button" class="button small" id="vote-again">New seed (R)</button>
    <button type="button" class="button small" id="vote-end">End blind vote (B)</button></span></header>
  <div id="vote-prompt"></div></section>
<div id="lanes" class="lanes"></div>
<div id="vote-bar" role="group" aria-label="Your vote" hidden>
  <button type="button" class="button vote" id="vote-a" data-choice="left">← A is better</button>
  <button type="button" class="button vote" id="vote-tie" data-choice="tie">↓ Tie</button>
  <button type="button" class="button vote" id="vote-b" data-choice="right">B is better →</button>
  <button type="button" class="button vote" id="vote-bad" data-choice="bad">Both bad (X)</button>
  <button type="button" class="button vote" id="vote-skip" data-choice="skip">Skip (S)</button>
  <button type="button" class="button vote" id="vote-next">Next (N)</button>
  <p id="vote-status" class="status" role="status" aria-live="polite"></p>
  <button type="button" class="button small" id="vote-reload" hidden>Load again</button></div>
<form id="vote-better" hidden><label for="vote-text">Both are bad. Write a better answer, and it becomes a training pair:</label>
  <textarea id="vote-text" rows="3"></textarea><button class="button small">Save this answer</button></form>
<div id="votes-error" class="verdict bad" role="alert" hidden></div>
"""
COMPARE_MORE = """
<div id="compare-more">
  <section class="card" id="tally" aria-labelledby="tally-head" hidden><header class="row"><h2 id="tally-head"></h2>
    <button type="button" class="button small" id="vote-undo">Undo (U)</button></header>
    <p id="tally-empty" hidden></p><p id="tally-numbers"></p><div id="tally-interval" role="img" hidden><i></i><b></b></div>
    <p id="tally-share"></p><p id="tally-verdict" class="strong"></p>
    <table id="tally-kinds" hidden><caption class="sr">Votes by kind of prompt</caption><thead></thead><tbody></tbody></table>
    <ul id="tally-checks" class="quiet"></ul>
    <p class="buttons"><button type="button" class="button" id="export-pairs"></button>
    <button type="button" class="button small" id="download-votes">Download votes (JSONL)</button></p>
    <p id="pairs-status" role="status"></p></section>
  <section class="card" id="differences" aria-labelledby="differences-head" hidden><h2 id="differences-head">Differences</h2>
    <p class="row"><label>Model <select id="lane-first"></select></label>
    <label>vs <select id="lane-second"></select></label></p>
    <p><label><input type="checkbox" id="diff"> Highlight words that differ</label></p>
    <p class="buttons"><button type="button" class="button small" id="heatmap-first">Token likelihood, answer 1</button>
    <button type="button" class="button small" id="heatmap-second">Token likelihood, answer 2</button></p>
    <p id="heatmap-legend" class="quiet"></p></section>
  <section class="card" id="scored" aria-labelledby="scored-head">
    <header class="row"><h2 id="scored-head">Automatic scores</h2>
    <span><button type="button" class="button small" id="score-go">Score these models</button>
    <button type="button" class="button small" id="score-stop" hidden>Stop</button></span></header>
    <p id="score-hint" class="quiet">Held-out pairs, answer style, and 60 general questions to detect forgetting. Takes a few
      minutes.</p>
    <div id="score-progress" role="status" hidden><div class="bar"><i></i></div><p></p></div>
    <div id="score-wrap" hidden><div class="measures" id="score-first"></div>
    <details id="score-all"><summary>All scores</summary><div class="measures" id="score-rest"></div></details></div>
    <div id="score-warnings"></div><p id="score-legend" class="quiet small"></p></section>
  <details class="card" id="judge"><summary>LLM judge</summary><form id="judge-form">
    <p class="quiet">Reads each pair twice with sides swapped. Shown next to your votes, never mixed in. Prompts and
      answers go to the URL below; the API key is read from an environment variable of this computer.</p>
    <label>Judge <select id="judge-lane"></select></label>
    <label class="endpoint-field">URL <input id="judge-url" placeholder="http://127.0.0.1:11434/v1"></label>
    <label class="endpoint-field">Model <input id="judge-model"></label>
    <label class="endpoint-field">API key variable <input id="judge-variable" value="OPENAI_API_KEY"></label>
    <label>Prompts <select id="judge-set"><option value="bundled">Bundled</option>
      <option value="held-out">Held out</option></select></label>
    <label>Answers to judge <input id="judge-cases" inputmode="numeric" value="20"></label>
    <p class="buttons"><button class="button small" id="judge-go"></button>
    <button type="button" class="button small" id="judge-stop" hidden>Stop</button></p></form>
    <p id="judge-status" role="status"></p><ul id="judge-results"></ul></details>
</div>
"""
