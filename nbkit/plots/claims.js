// Sorts the table by the column whose head is pressed, and shows the lines that hold what is typed.
var table = document.querySelector("table.claims"), body = table.tBodies[0];
var lines = Array.from(body.rows);
var heads = Array.from(table.querySelectorAll("th"));
var texts = lines.map(function (line) { return line.textContent.toLowerCase(); });

function key(line, column) { return line.cells[column].dataset.key; }

heads.forEach(function (head, column) {
  head.querySelector("button").addEventListener("click", function () {
    var up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(function (other) { other.setAttribute("aria-sort", "none"); });
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    var sorted = lines.slice().sort(function (a, b) {
      return key(a, column).localeCompare(key(b, column), undefined, { numeric: true }) * (up ? 1 : -1);
    });
    body.append.apply(body, sorted);
  });
});

function find() {
  var asked = document.getElementById("find").value.trim().toLowerCase(), shown = 0;
  lines.forEach(function (line, i) {
    line.hidden = !texts[i].includes(asked);
    shown += !line.hidden;
  });
  document.getElementById("found").textContent = shown + " of " + lines.length;
}
document.getElementById("find").addEventListener("input", find);
find();
