// While a list or a slider has the focus, JupyterLab still takes arrows, X and D D for its own commands on cells,
// unless the list has this attribute. ipywidgets cannot set one, so this script does.
document.addEventListener("focusin", function (event) {
  if (event.target.closest(".nbkit-controls"))
    event.target.setAttribute("data-lm-suppress-shortcuts", "true");
});
