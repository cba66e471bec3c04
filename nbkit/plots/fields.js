// For pages that search: elements by their id, and words as they are compared.
var at = function (id) { return document.getElementById(id); };

// As nbkit.activations.exemplars.fold; data.fold has the letters whose case JavaScript folds in another way.
function fold(text) {
  var letters = Array.from(text.normalize("NFD"), function (c) { return data.fold[c] || c.toLowerCase(); });
  return letters.join("").normalize("NFD");
}
