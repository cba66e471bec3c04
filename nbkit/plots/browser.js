// Lists the units that are asked for, shows the one that is chosen, and makes buttons of neighbours on this page.
// Fields hold positions: a descriptor may have any name, "" and "0" too.
var sections = document.querySelectorAll("section"), words = new Map(Object.entries(data.words));

function show() {
  sections.forEach(function (section, i) { section.hidden = String(i) !== at("unit").value; });
}

function list() {
  var typed = at("word").value.trim(), word = fold(typed), descriptor = at("descriptor").value, lines, note;
  if (word) {
    lines = words.get(word) || [];
    note = "by their response to the word, in standard deviations";
  } else if (descriptor) {
    lines = data.scores[descriptor].map(function (score, i) { return [i, score]; });
    note = "by their highest score for the descriptor";
  } else {
    lines = data.units.map(function (unit, i) { return [i]; });
    note = "of the " + data.units.length + " on this page";
  }
  lines = lines.filter(function (line) {
    return !at("site").value || String(data.sites[line[0]]) === at("site").value;
  });
  if (word && !words.has(word))
    return at("found").textContent =
      "\u201c" + typed + "\u201d is not among the " + words.size + " words of this page";
  if (word || descriptor) lines.sort(function (a, b) { return b[1] - a[1]; });
  at("unit").replaceChildren.apply(at("unit"), lines.map(function (line) {
    var number = line.length > 1 ? " · " + line[1].toFixed(2) : "";
    return new Option(data.units[line[0]] + number + " · " + data.tags[line[0]], line[0]);
  }));
  at("found").textContent = lines.length + (lines.length === 1 ? " unit, " : " units, ") + note;
  at("unit").selectedIndex = lines.length ? 0 : -1;
  show();
}

["descriptor", "word", "site"].forEach(function (id) {
  at(id).addEventListener("input", function () {
    if (id !== "site") at(id === "word" ? "descriptor" : "word").value = "";
    list();
  });
});
at("unit").addEventListener("input", show);
document.querySelectorAll(".near th:first-child").forEach(function (cell) {
  var place = data.units.indexOf(cell.textContent);
  if (place < 0) return;
  var button = document.createElement("button");
  button.textContent = cell.textContent;
  button.addEventListener("click", function () {
    at("word").value = at("descriptor").value = at("site").value = "";
    list();
    at("unit").value = String(place);
    show();
    at("unit").focus();
  });
  cell.replaceChildren(button);
});
list();
