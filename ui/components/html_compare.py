"""The Compare tab as HTML: the lanes with the vote, and the parts below."""

from __future__ import annotations

from ui.format import page_text


def render_lanes() -> str:
    return f"""
<div id="compare-empty" class="empty" hidden><h2>{page_text("compare_tab.nothing_to_compare")}</h2>
  <p>{page_text("compare_tab.answers_appear")}</p>
  <p><button type="button" class="button" id="compare-start">{page_text("compare_tab.go_to_start")}</button></p></div>
<div id="compare-failed" class="verdict bad" role="alert" hidden><p></p>
  <button type="button" class="button small" id="compare-reload">{page_text("common.load_again")}</button></div>
<div id="compare-status" class="status" role="status" aria-live="polite"></div>
<div id="compare-error" class="verdict bad" role="alert" hidden></div>
<section id="vote-question" class="card" aria-label="{page_text("votes.question")}" hidden>
  <header class="row"><h2 id="vote-number"></h2><span>
    <button type="button" class="button small" id="vote-again">{page_text("votes.new_seed")}</button>
    <button type="button" class="button small" id="vote-end">{page_text("votes.end")}</button></span></header>
  <div id="vote-prompt"></div></section>
<div id="lanes" class="lanes"></div>
<div id="vote-bar" role="group" aria-label="{page_text("votes.your_vote")}" hidden>
  <button type="button" class="button vote" id="vote-a" data-choice="left">{page_text("votes.a_is_better")}</button>
  <button type="button" class="button vote" id="vote-tie" data-choice="tie">{page_text("votes.tie")}</button>
  <button type="button" class="button vote" id="vote-b" data-choice="right">{page_text("votes.b_is_better")}</button>
  <button type="button" class="button vote" id="vote-bad" data-choice="bad">{page_text("votes.both_bad")}</button>
  <button type="button" class="button vote" id="vote-skip" data-choice="skip">{page_text("votes.skip")}</button>
  <button type="button" class="button vote" id="vote-next">{page_text("votes.next")}</button>
  <p id="vote-status" class="status" role="status" aria-live="polite"></p>
  <button type="button" class="button small" id="vote-reload" hidden>{page_text("common.load_again")}</button></div>
<form id="vote-better" hidden><label for="vote-text">{page_text("votes.write_better")}</label>
  <textarea id="vote-text" rows="3"></textarea>
  <button class="button small">{page_text("votes.save_answer")}</button></form>
<div id="votes-error" class="verdict bad" role="alert" hidden></div>
"""


def render_compare_more() -> str:
    return f"""
<div id="compare-more">
  <section class="card" id="tally" aria-labelledby="tally-head" hidden><header class="row"><h2 id="tally-head"></h2>
    <button type="button" class="button small" id="vote-undo">{page_text("votes.undo")}</button></header>
    <p id="tally-empty" hidden></p><p id="tally-numbers"></p>
    <div id="tally-interval" role="img" hidden><i></i><b></b></div>
    <p id="tally-share"></p><p id="tally-verdict" class="strong"></p>
    <table id="tally-kinds" hidden><caption class="sr">{page_text("votes.by_kind")}</caption>
      <thead></thead><tbody></tbody></table>
    <ul id="tally-checks" class="quiet"></ul>
    <p class="buttons"><button type="button" class="button" id="export-pairs"></button>
    <button type="button" class="button small" id="download-votes">{page_text("votes.download")}</button></p>
    <p id="pairs-status" role="status"></p></section>
  <section class="card" id="differences" aria-labelledby="differences-head" hidden>
    <h2 id="differences-head">{page_text("compare_tab.differences")}</h2>
    <p class="row"><label>{page_text("compare_tab.model")} <select id="lane-first"></select></label>
    <label>{page_text("compare_tab.versus")} <select id="lane-second"></select></label></p>
    <p><label><input type="checkbox" id="diff"> {page_text("compare_tab.highlight_words")}</label></p>
    <p class="buttons"><button type="button" class="button small"
      id="heatmap-first">{page_text("compare_tab.likelihood", number=1)}</button>
    <button type="button" class="button small"
      id="heatmap-second">{page_text("compare_tab.likelihood", number=2)}</button></p>
    <p id="heatmap-legend" class="quiet"></p></section>
  <section class="card" id="scored" aria-labelledby="scored-head">
    <header class="row"><h2 id="scored-head">{page_text("scores.title")}</h2>
    <span><button type="button" class="button small" id="score-go">{page_text("scores.start")}</button>
    <button type="button" class="button small"
      id="score-stop" hidden>{page_text("common.stop")}</button></span></header>
    <p id="score-hint" class="quiet">{page_text("scores.what_is_scored")}</p>
    <div id="score-progress" role="status" hidden><div class="bar"><i></i></div><p></p></div>
    <div id="score-wrap" hidden><div class="measures" id="score-first"></div>
    <details id="score-all"><summary>{page_text("scores.all_scores")}</summary>
      <div class="measures" id="score-rest"></div></details></div>
    <div id="score-warnings"></div><p id="score-legend" class="quiet small"></p></section>
  <details class="card" id="judge"><summary>{page_text("judge.title")}</summary><form id="judge-form">
    <p class="quiet">{page_text("judge.how_it_judges")}</p>
    <label>{page_text("judge.judge")} <select id="judge-lane"></select></label>
    <label class="endpoint-field">{page_text("judge.url")}
      <input id="judge-url" placeholder="http://127.0.0.1:11434/v1"></label>
    <label class="endpoint-field">{page_text("judge.model")} <input id="judge-model"></label>
    <label class="endpoint-field">{page_text("judge.key_variable")}
      <input id="judge-variable" value="OPENAI_API_KEY"></label>
    <label>{page_text("judge.prompts")} <select id="judge-set">
      <option value="bundled">{page_text("judge.bundled")}</option>
      <option value="held-out">{page_text("judge.held_out")}</option></select></label>
    <label>{page_text("judge.answers_to_judge")} <input id="judge-cases" inputmode="numeric" value="20"></label>
    <p class="buttons"><button class="button small" id="judge-go"></button>
    <button type="button" class="button small" id="judge-stop" hidden>{page_text("common.stop")}</button></p></form>
    <p id="judge-status" role="status"></p><ul id="judge-results"></ul></details>
</div>
"""
