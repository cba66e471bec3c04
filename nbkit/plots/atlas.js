// Searches the units, and shows the one that the address names. What it needs of the data comes as scripts, since
// a page opened from disk may not fetch other files; each calls nbkit.take. Texts only ever become text nodes.
var STEP = 100, taking = new Map(), asked = new Map();
var nbkit = { take: function (name, value) { taking.get(name)(value); } };

function load(name) {
  if (!asked.has(name)) asked.set(name, new Promise(function (resolve, reject) {
    var script = document.createElement("script");
    taking.set(name, resolve);
    script.src = data.folder + "/" + name + ".js";
    script.onload = function () { script.remove(); };
    script.onerror = function () {
      asked.delete(name);
      reject(new Error(data.folder + "/" + name + ".js is not there: copy the whole folder of this page"));
    };
    document.head.append(script);
  }));
  return asked.get(name);
}

function numbers(text) {
  return new Int16Array(Uint8Array.from(atob(text), function (c) { return c.charCodeAt(0); }).buffer);
}

// ---------------------------------------------------------------------------------- units and their names

var names = [], siteOf = [], firsts = [];
data.sites.forEach(function (site, s) {
  firsts.push(names.length);
  for (var i = 0; i < site.n; i++) {
    names.push(site.names ? site.names[i] : site.name + "." + i);
    siteOf.push(s);
  }
});
var placeOf = new Map(names.map(function (name, i) { return [name, i]; }));
var best = numbers(data.best[1]), which = data.which.map(numbers);  // corpus and descriptor of its best tag
var everyone = names.map(function (_, i) { return i; }), byBest = ordered(everyone, best);

function ordered(places, scores) {
  return places.slice().sort(function (a, b) { return scores[b] - scores[a] || a - b; });
}
function fixed(x, digits) { return x.toFixed(digits === undefined ? 2 : digits).replace(/^-(?=0\.?0*$)/, ""); }
function counted(n, what) { return n.toLocaleString("en") + " " + what + (n === 1 ? "" : "s"); }
function linkTo(place) { return "#" + encodeURIComponent(names[place]); }
function short(text) { return text.length > 40 ? text.slice(0, 39).trimEnd() + "…" : text; }

function tagOf(place) {
  return short(data.descriptors[which[1][place]]) + " " + fixed(best[place] * data.best[0]) + " in " +
    short(data.corpora[which[0][place]]);
}

// element("td", {className: "best"}, child, "text", ...)
function element(kind, properties) {
  var made = Object.assign(document.createElement(kind), properties);
  made.append.apply(made, Array.prototype.slice.call(arguments, 2));
  return made;
}

// ---------------------------------------------------------------------------------- search

var lines = [], shown = 0, current = -1, searches = 0;

// A promise of {lines: [[place, number or null, text]], note}, for what the fields ask for.
function search() {
  var word = fold(at("word").value.trim()), descriptor = at("descriptor").value;
  var claim = fold(at("claim").value.trim()), verdict = at("verdict").value, name = at("name").value.trim();
  if (word) return load("words").then(function (words) { return ofWord(word, words); });
  if (descriptor) return load("tag-" + descriptor).then(function (packed) {
    var scores = numbers(packed[1]), known = everyone.filter(function (i) { return scores[i] !== -32768; });
    return {
      lines: ordered(known, scores).map(function (i) { return [i, scores[i] * packed[0], tagOf(i)]; }),
      note: "by their highest score for the descriptor"
    };
  });
  if (claim || verdict) return ofClaim(claim, verdict);
  var some = name ? byBest.filter(function (i) { return names[i].includes(name); }) : byBest;
  if (placeOf.has(name)) some = [placeOf.get(name)];
  return Promise.resolve({
    lines: some.map(function (i) { return [i, null, tagOf(i)]; }),
    note: name ? "with “" + name + "” in the name" : "by their best tag"
  });
}

function ofWord(word, words) {
  var line = words.find(function (line) { return line[0] === word; }), found = [];
  for (var j = 1; line && j < line.length; j += 2) found.push([line[j], line[j + 1], tagOf(line[j])]);
  var begin = line ? [] : words.filter(function (w) { return w[0].startsWith(word); }).slice(0, 5);
  var others = begin.map(function (w) { return w[0]; }).join(", ");
  return {
    lines: found,
    note: line ? "that respond most to the word, in standard deviations" :
      "“" + at("word").value.trim() + "” is not among the " + counted(words.length, "word") + " of this page" +
      (others ? "; there are " + others : "")
  };
}

function ofClaim(claim, verdict) {
  var wanted = claim.split(/\s+/), files = [];
  data.claimed.forEach(function (has, s) { if (has) files.push(load("claims-" + s)); });
  return Promise.all(files).then(function (parts) {
    var found = parts.flat().filter(function (line) {
      var text = fold(line[1] + " " + names[line[0]]);
      return (!verdict || String(line[2]) === verdict) &&
        wanted.every(function (part) { return text.includes(part); });
    });
    found.sort(function (a, b) { return a[2] - b[2] || a[0] - b[0]; });
    return {
      lines: found.map(function (line) { return [line[0], null, line[1] + ": " + data.verdicts[line[2]]]; }),
      note: "with such a claim; of " + counted(data.claims, "claim")
    };
  });
}

function list() {
  var mine = ++searches, site = at("site").value;
  search().then(function (found) {
    if (mine !== searches) return;  // something else was asked for meanwhile
    lines = site ? found.lines.filter(function (l) { return String(siteOf[l[0]]) === site; }) : found.lines;
    var none = found.lines.length === 0 && found.note.startsWith("“");
    at("found").textContent = none ? found.note : counted(lines.length, "unit") + " " + found.note;
    at("list").replaceChildren();
    shown = 0;
    more();
    at("list").scrollTop = 0;
  }).catch(failed);
}

function more() {
  at("list").append.apply(at("list"), lines.slice(shown, shown + STEP).map(function (line) {
    var number = line[1] === null ? "" : element("span", { className: "number" }, fixed(line[1]));
    var link = element("a", { href: linkTo(line[0]), tabIndex: -1 },
      number, element("b", {}, names[line[0]]), element("small", { dir: "auto" }, line[2]));
    link.dataset.place = line[0];
    return element("li", {}, link);
  }));
  shown = Math.min(lines.length, shown + STEP);
  at("more").hidden = shown === lines.length;
  at("more").textContent = "show more of " + counted(lines.length, "unit");
  mark();
}

// The current unit is marked; one link of the list is reached by Tab, and arrows go on from it.
function mark() {
  var links = Array.from(at("list").querySelectorAll("a")), reached = null;
  links.forEach(function (link) {
    var is = Number(link.dataset.place) === current;
    if (is) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
    link.tabIndex = -1;
    if (is && !reached) reached = link;
  });
  if (reached || links[0]) (reached || links[0]).tabIndex = 0;
}

// ---------------------------------------------------------------------------------- the view of a unit

function tokensOf(spans) {
  var end = 0, found = [];
  for (var i = 0; i < spans.length; i += 2) {
    found.push([end + spans[i], end + spans[i] + spans[i + 1]]);
    end += spans[i] + spans[i + 1];
  }
  return found;
}

// As shade_html of nbkit.plots.html. Python counts characters, so the text is cut into these.
function shaded(line, text, bound) {
  var letters = Array.from(text[0]), tokens = tokensOf(text[1]), owner = new Array(letters.length).fill(-1);
  if (line.length < 4) return [text[0]];
  var shades = Array.from(line[3], function (c) { return data.letters.indexOf(c) / (data.letters.length - 1); });
  tokens.map(function (_, t) { return t; }).sort(function (a, b) {
    return (a === line[2]) - (b === line[2]) || shades[a] - shades[b] || b - a;
  }).forEach(function (t) { owner.fill(t, Math.max(0, tokens[t][0]), Math.max(0, tokens[t][1])); });
  var parts = [], start = 0;
  for (var i = 1; i <= letters.length; i++) if (i === letters.length || owner[i] !== owner[start]) {
    var t = owner[start], letter = letters.slice(start, i).join("");
    if (t >= 0 && (t === line[2] || shades[t] > 0)) {
      var marked = element("mark", { title: "about " + fixed(shades[t] * bound) }, letter);
      if (t === line[2]) marked.className = "peak";
      if (t === line[2]) marked.title = shades[t] ? marked.title : "the highest";
      marked.style.setProperty("--a", shades[t].toFixed(2));
      parts.push(marked);
    } else parts.push(letter);
    start = i;
  }
  return parts;
}

function histogram(bars, range) {
  var space = "http://www.w3.org/2000/svg", svg = document.createElementNS(space, "svg");
  var path = document.createElementNS(space, "path"), title = document.createElementNS(space, "title"), d = "";
  Array.from(bars, function (c, i) {
    var height = data.letters.indexOf(c) / (data.letters.length - 1) * 30;
    if (height) d += "M" + 4 * i + " 32v" + fixed(-height, 1) + "h3.4v" + fixed(height, 1) + "z";
  });
  title.textContent = "activations from " + fixed(range[0]) + " to " + fixed(range[1]);
  path.setAttribute("d", d);
  path.setAttribute("fill", "#56B4E9");
  svg.setAttribute("viewBox", "0 0 " + 4 * data.bins + " 34");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.append(title, path);
  return svg;
}

function tagTable(tags) {
  var tops = data.corpora.map(function (_, c) {
    return Math.max.apply(null, tags.map(function (tag) { return tag[1 + 2 * c]; }));
  });
  var head = element("tr", {}, element("th", {}, "tag"));
  data.corpora.forEach(function (name) { head.append(element("th", { dir: "auto" }, name)); });
  var rows = tags.map(function (tag) {
    var row = element("tr", {}, element("th", { dir: "auto" }, data.descriptors[tag[0]]));
    tops.forEach(function (top, c) {
      var score = tag[1 + 2 * c], rank = tag[2 + 2 * c].toLocaleString("en");
      var cell = element("td", { className: score === top ? "best" : "" }, fixed(score));
      cell.append(element("small", { title: "rank among " + counted(names.length, "unit") }, "#" + rank));
      var color = score >= 0 ? "0,114,178" : "230,159,0";
      cell.style.background = "rgba(" + color + "," + Math.min(1, Math.abs(score)) * 0.55 + ")";
      row.append(cell);
    });
    return row;
  });
  var table = element("table", { className: "scores" }, head);
  table.append.apply(table, rows);
  return element("div", { className: "wide", tabIndex: 0, ariaLabel: "tags" }, table);
}

function claimOf(line) {
  return element("div", { className: "claim" },
    element("blockquote", { dir: "auto" }, line[0]),
    element("p", { className: "note", dir: "auto" },
      "claimed when it is " + (line[1] < 0 ? "low" : "high") + (line[3] ? " · by " + line[3] : "")),
    element("p", { className: "verdict", dir: "auto" }, element("b", {}, line[2])));
}

function corpusOf(c, unit, texts) {
  var exemplars = unit[3][c], list = element("ol", {});
  exemplars.forEach(function (line) {
    var item = element("li", { dir: "auto" }), text = texts(line[0]);
    item.append.apply(item, shaded(line, text, unit[2][1]));
    item.append(element("span", { className: "note" }, " " + fixed(line[1])));
    list.append(item);
  });
  return element("div", { className: "corpus" }, element("h4", { dir: "auto" }, data.corpora[c]),
    histogram(unit[1].slice(c * data.bins, (c + 1) * data.bins), unit[2]),
    element("div", { className: "note" }, "top " + exemplars.length + ": " + fixed(exemplars[0][1]) + " to " +
      fixed(exemplars[exemplars.length - 1][1])), list);
}

function step(place, text) {
  return siteOf[place] === siteOf[current] ? element("a", { href: linkTo(place) }, text(names[place])) : "";
}

function draw(place, unit, texts) {
  var view = at("view"), corpora = element("div", { className: "corpora" }), words = [];
  var back = element("button", { className: "back", type: "button" }, "↑ search");
  back.addEventListener("click", function () { at("descriptor").focus(); });
  for (var j = 0; j < unit[4].length; j += 2) words.push(unit[4][j] + " " + fixed(unit[4][j + 1], 1));
  data.corpora.forEach(function (_, c) { corpora.append(corpusOf(c, unit, texts)); });
  view.replaceChildren(
    element("h2", { dir: "auto" }, element("a", { href: linkTo(place) }, names[place])),
    element("p", { className: "steps" }, step(place - 1, function (n) { return "‹ " + n; }),
      step(place + 1, function (n) { return n + " ›"; }), back));
  view.append.apply(view, unit[5].map(claimOf));
  if (unit[0].length) view.append(tagTable(unit[0]), element("p", { className: "note" },
    "score of each tag in each corpus, and # its rank among all units; framed: the best there"));
  if (words.length) view.append(element("p", { dir: "auto" }, "words: " + words.join(" · "),
    element("span", { className: "note" }, " standard deviations above its mean")));
  view.append(corpora, element("p", { className: "note" }, "histograms from " + fixed(unit[2][0]) + " to " +
    fixed(unit[2][1]) + " in every corpus" + (data.shaded ?
      "; tokens shaded from 0 to " + fixed(Math.max(0, unit[2][1])) + ", the highest framed" : "")));
  document.title = names[place] + " · " + data.title;
}

function show() {
  var name = location.hash.slice(1), place;
  try { name = decodeURIComponent(name); } catch (error) { /* a lone % is part of the name */ }
  if (name && !placeOf.has(name)) return failed(new Error("no unit " + name + "; names look like " + names[0]));
  place = current = name ? placeOf.get(name) : byBest[0];
  mark();
  var s = siteOf[place], i = place - firsts[s];
  load("units-" + s + "-" + Math.floor(i / data.unitsInFile)).then(function (units) {
    var unit = units[i % data.unitsInFile], files = new Map();
    unit[3].flat().forEach(function (line) { files.set(Math.floor(line[0] / data.textsInFile), null); });
    return Promise.all(Array.from(files.keys(), function (file) {
      return load("texts-" + file).then(function (texts) { files.set(file, texts); });
    })).then(function () {
      if (place !== current) return;
      draw(place, unit, function (n) {
        return files.get(Math.floor(n / data.textsInFile))[n % data.textsInFile];
      });
    });
  }).catch(failed);
}

function failed(error) {
  at("view").replaceChildren(element("p", { className: "failed" }, error.message));
}

// ---------------------------------------------------------------------------------- fields and keys

var ASKS = ["descriptor", "word", "claim", "verdict", "name"];
if (!data.words) at("word").parentNode.hidden = true;
document.querySelectorAll(".of-claims").forEach(function (field) { field.hidden = !data.claims; });
ASKS.concat("site").forEach(function (id) {
  at(id).addEventListener("input", function () {
    var together = id === "claim" || id === "verdict";
    if (id !== "site") ASKS.forEach(function (other) {
      if (other !== id && !(together && (other === "claim" || other === "verdict"))) at(other).value = "";
    });
    list();
  });
});
["word", "claim", "name"].forEach(function (id) {
  at(id).addEventListener("keydown", function (event) {
    if (event.key === "ArrowDown" || event.key === "Enter") {
      var link = at("list").querySelector("a");
      if (link) event.preventDefault();
      if (link && event.key === "Enter") link.click();
      else if (link) link.focus();
    }
  });
});
at("list").addEventListener("keydown", function (event) {
  var links = Array.from(at("list").querySelectorAll("a")), i = links.indexOf(document.activeElement);
  var to = { ArrowDown: i + 1, ArrowUp: i - 1, Home: 0, End: links.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  if (to === links.length && !at("more").hidden) {
    more();
    links = Array.from(at("list").querySelectorAll("a"));
  }
  if (links[to]) links[to].focus();
});
at("list").addEventListener("click", function (event) {
  if (event.target.closest("a") && innerWidth <= 832) at("view").scrollIntoView();
});
at("more").addEventListener("click", more);
addEventListener("hashchange", show);
list();
show();
