// What a page does by itself, live or exported: dark and light, the card of a token, and, when exported, its figures.
// Text goes into the page as text only (textContent); nothing here makes markup.
(function () {
  "use strict";

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.page = {
    colour: function (name) { return "by-" + name; },
  };

  // -- dark and light ---------------------------------------------------------------------------------------------------
  function remembered(theme) {
    try { // a page opened from a file may have no storage
      if (theme !== undefined) { localStorage.setItem("rlkit-theme", theme); }
      return localStorage.getItem("rlkit-theme") || "";
    } catch (error) { return theme || ""; }
  }
  function show(theme) {
    if (theme) { document.documentElement.dataset.theme = theme; } else { delete document.documentElement.dataset.theme; }
  }
  show(remembered());
  document.addEventListener("click", function (event) {
    if (!event.target.closest || !event.target.closest(".theme")) { return; }
    var dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
    var now = document.documentElement.dataset.theme || (dark ? "dark" : "light");
    var next = now === "dark" ? "light" : "dark";
    show(remembered(next));
  });

  // -- the card of a token ----------------------------------------------------------------------------------------------
  function element(kind, text, name) {
    var made = document.createElement(kind);
    if (text !== undefined) { made.textContent = text; }
    if (name) { made.className = name; }
    return made;
  }
  function card() {
    var found = document.getElementById("token-card");
    if (!found) {
      found = element("div");
      found.id = "token-card";
      found.setAttribute("role", "status");
      document.body.appendChild(found);
    }
    return found;
  }
  function fill(box, told) {
    box.replaceChildren();
    told.rows.forEach(function (pair) {
      var fact = element("div", undefined, "fact");
      fact.append(element("span", pair[0]), element("span", pair[1]));
      box.append(fact);
    });
    if (!told.top.length) { return; }
    var table = element("table"), head = element("tr");
    ["likeliest before", "before", "after"].forEach(function (words) { head.append(element("th", words)); });
    table.append(head);
    told.top.forEach(function (row) {
      var line = element("tr");
      row.forEach(function (cell) { line.append(element("td", cell)); });
      table.append(line);
    });
    box.append(table);
  }
  function open(token) {
    var box = card(), place = token.getClientRects()[0] || token.getBoundingClientRect();
    fill(box, JSON.parse(token.dataset.card));
    box.hidden = false;
    var size = box.getBoundingClientRect();
    var under = place.bottom + 8 + size.height < window.innerHeight;
    box.style.left = Math.max(6, Math.min(place.left, window.innerWidth - size.width - 6)) + "px";
    box.style.top = Math.max(6, under ? place.bottom + 8 : place.top - size.height - 8) + "px";
  }
  function close() { var box = document.getElementById("token-card"); if (box) { box.hidden = true; } }
  function token(event) { return event.target.closest ? event.target.closest(".tok") : null; }

  document.addEventListener("pointerover", function (event) { if (token(event)) { open(token(event)); } });
  document.addEventListener("pointerout", function (event) {
    if (token(event) && document.activeElement !== token(event)) { close(); }
  });
  document.addEventListener("focusin", function (event) { if (token(event)) { open(token(event)); } });
  document.addEventListener("focusout", function (event) { if (token(event)) { close(); } });
  document.addEventListener("click", function (event) { if (token(event)) { go(token(event), token(event)); } });
  window.addEventListener("scroll", close, { passive: true });
  document.addEventListener("keydown", function (event) {
    var here = token(event);
    if (event.key === "Escape") { close(); }
    if (!here || event.altKey || event.ctrlKey || event.metaKey) { return; }
    var all = Array.from(here.parentElement.querySelectorAll(".tok")), at = all.indexOf(here);
    var next = { ArrowLeft: all[at - 1], ArrowRight: all[at + 1], Home: all[0], End: all[all.length - 1] }[event.key];
    if (event.key === "ArrowUp" || event.key === "ArrowDown") { next = beside(all, at, event.key === "ArrowDown" ? 1 : -1); }
    if (next) { event.preventDefault(); go(here, next); }
  });
  function go(from, to) { // one token of an answer can be reached by Tab: the last one that was looked at
    Array.from(to.parentElement.querySelectorAll('.tok[tabindex="0"]')).forEach(function (t) { t.tabIndex = -1; });
    to.tabIndex = 0;
    to.focus({ preventScroll: false });
    open(to);
  }
  function beside(all, at, way) { // the nearest token in the line above or below
    var from = all[at].getBoundingClientRect(), best = null, line = null;
    for (var i = at + way; i >= 0 && i < all.length; i += way) {
      var place = all[i].getBoundingClientRect();
      if ((place.top - from.top) * way < 4) { continue; }
      if (line === null) { line = place.top; }
      if (Math.abs(place.top - line) > 4) { break; }
      var distance = Math.abs(place.left - from.left);
      if (best === null || distance < best[0]) { best = [distance, all[i]]; }
    }
    return best && best[1];
  }

  // -- exported pages -----------------------------------------------------------------------------------------------------
  document.addEventListener("change", function (event) {
    if (event.target.name === "exported-colour") { document.getElementById("tokens-view").className = "by-" + event.target.value; }
  });
  document.addEventListener("DOMContentLoaded", function () {
    var waiting = document.querySelectorAll(".figure");
    if (!waiting.length) { return; }
    var watch = new IntersectionObserver(function (entries) {
      entries.forEach(function (entry) {
        if (!entry.isIntersecting) { return; }
        watch.unobserve(entry.target);
        var told = JSON.parse(entry.target.querySelector("script").textContent);
        window.Plotly.newPlot(entry.target, told.data, told.layout, { displaylogo: false, responsive: true });
      });
    }, { rootMargin: "300px" });
    waiting.forEach(function (figure) { watch.observe(figure); });
  });
})();
