"""The Data tab as HTML."""

from __future__ import annotations

DATA = """
<section class="card" id="data-source" aria-label="Where the data is">
  <div id="data-drop"><b>Drop a data file here</b>
    <span class="quiet">JSONL, JSON, CSV, TSV or Parquet, also gzipped</span>
    <label class="button small" tabindex="0" id="data-choose">Choose a file<input type="file" id="data-file"
      class="sr" tabindex="-1" aria-label="Data file"></label></div>
  <form id="data-form"><label for="data-path">Or enter a path or a Hugging Face dataset (owner/name)</label>
    <span class="row"><input id="data-path" autocomplete="off" spellcheck="false"
      placeholder="/home/me/pairs.jsonl or owner/name"><button class="button" id="data-check">Check</button></span></form>
  <p class="quiet" id="data-samples">Included: <button class="link" data-path="sample">sample pairs</button> ·
    <button class="link" data-path="sample chats">sample chats</button>
    <span id="data-current" hidden>· In use: <button class="link" data-preview></button></span></p>
</section>
<div id="data-problem" class="verdict bad" role="alert" hidden></div>
<form id="data-parts" class="card" hidden></form>
<div id="data-progress" role="status" hidden><div class="bar"><i></i></div><p class="row"><span></span>
  <button class="button small" id="data-stop">Stop</button></p></div>
<div id="data-result" hidden>
  <header class="row head"><div><h2 id="data-name"></h2><p class="quiet" id="data-shape"></p></div>
    <button class="button" id="data-use">Use this data</button></header>
  <div id="data-blocked" class="verdict bad" hidden></div>
  <p id="data-numbers" class="numbers"></p>
  <div id="data-steps" hidden></div>
  <section class="card" id="data-columns" aria-labelledby="data-columns-head"></section>
  <section class="card" id="data-rows" aria-labelledby="data-rows-head"></section>
  <section class="card" id="data-lengths" aria-labelledby="data-lengths-head" hidden></section>
  <section id="data-health" aria-labelledby="data-health-head"></section>
</div>
"""
