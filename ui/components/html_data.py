"""The Data tab as HTML."""

from __future__ import annotations

from ui.format import page_text


def render_data_tab() -> str:
    return f"""
{render_source()}
<div id="data-problem" class="verdict bad" role="alert" hidden></div>
<form id="data-parts" class="card" hidden></form>
<div id="data-progress" role="status" hidden><div class="bar"><i></i></div><p class="row"><span></span>
  <button class="button small" id="data-stop">{page_text("common.stop")}</button></p></div>
<div id="data-result" hidden>
  <header class="row head"><div><h2 id="data-name"></h2><p class="quiet" id="data-shape"></p></div>
    <button class="button" id="data-use">{page_text("data_tab.use_data")}</button></header>
  <div id="data-blocked" class="verdict bad" hidden></div>
  <p id="data-numbers" class="numbers"></p>
  <div id="data-steps" hidden></div>
  <section class="card" id="data-columns" aria-labelledby="data-columns-head"></section>
  <section class="card" id="data-rows" aria-labelledby="data-rows-head"></section>
  <section class="card" id="data-lengths" aria-labelledby="data-lengths-head" hidden></section>
  <section id="data-health" aria-labelledby="data-health-head"></section>
</div>
"""


def render_source() -> str:
    """The choice of a file: dropped, by its path, or one of the bundled ones."""
    return f"""<section class="card" id="data-source" aria-label="{page_text("data_tab.source")}">
  <div id="data-drop"><b>{page_text("data_tab.drop_file")}</b>
    <span class="quiet">{page_text("data_tab.formats")}</span>
    <label class="button small" tabindex="0" id="data-choose">{page_text("data_tab.choose_file")}<input type="file" id="data-file"
      class="sr" tabindex="-1" aria-label="{page_text("data_tab.file")}"></label></div>
  <form id="data-form"><label for="data-path">{page_text("data_tab.enter_path")}</label>
    <span class="row"><input id="data-path" autocomplete="off" spellcheck="false"
      placeholder="{page_text("data_tab.path_example")}"><button class="button" id="data-check"
      >{page_text("data_tab.check")}</button></span></form>
  <p class="quiet" id="data-samples">{page_text("data_tab.included")}
    <button class="link" data-path="sample">{page_text("data_tab.sample_pairs")}</button> ·
    <button class="link" data-path="sample chats">{page_text("data_tab.sample_chats")}</button>
    <span id="data-current" hidden>· {page_text("data_tab.in_use")} <button class="link" data-preview></button></span></p>
</section>"""
