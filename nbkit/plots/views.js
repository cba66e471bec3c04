// Shows the view for what is chosen in the fields of the page. A view is a list of parts that views share.
var fields = Array.from(document.querySelectorAll("select,input"));
function show() {
  var choice = fields.map(function (f) { return f.value; }).join(",");
  document.getElementById("view").innerHTML = data.views[choice].map(function (i) { return data.parts[i]; }).join("\n");
  fields.forEach(function (f, i) {
    var out = f.parentNode.querySelector("output");
    if (out) out.textContent = data.names[i][f.value];
  });
}
fields.forEach(function (f) { f.addEventListener("input", show); });
show();
